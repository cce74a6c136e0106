"""Fixtures of the flows: a running `up`."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.service import Service


@pytest.fixture(scope="session")
def service(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Offer a `nanbeige up` with its own database; what is left of it is stopped at the end."""
    made = Service(tmp_path_factory.mktemp("up"), Path(os.environ["PREFECT_HOME"]) / "prefect.db")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGTERM)


@pytest.fixture
def up(service: Service) -> Service:
    """Offer a running `nanbeige up`."""
    service.ensure()
    return service
