"""Fixtures shared by all rooms: a store in a temporary folder, the shipped recipe, one Prefect server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
RECIPE_FILE = ROOT / "pipelines.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", tmp_path / "cache")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start one Prefect server for the whole session, with its own database."""
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
    from flows.server import start_server

    with start_server() as server:
        yield server.url
