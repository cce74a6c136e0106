"""Break runs on purpose and look whether they mend: `python -m nanbeige_core.faults`."""
