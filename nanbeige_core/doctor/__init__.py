"""What this machine has and lacks for the recipe, found out by trying; each finding names its remedy."""
