"""Break what is around a run: the Prefect server, its database, the worker of `up`. `python -m flows.faults`."""
