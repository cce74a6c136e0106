"""Candidate quality dimensions: what they ask, who annotates them, and which twenty are kept."""
