"""Near-duplicate removal: keys propose, exact Jaccard decides, the best document stays. See `run.deduplicate`."""
