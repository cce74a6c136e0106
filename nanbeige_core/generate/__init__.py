from nanbeige_core.generate.engines import open_engine

__all__ = ["open_engine"]
