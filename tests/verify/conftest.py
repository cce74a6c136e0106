from collections.abc import Iterator
from pathlib import Path

import pytest

from nanbeige_core.verify.math_verifier import MathVerifier, open_math_verifier
from nanbeige_core.verify.sandbox import Sandbox, open_sandbox


@pytest.fixture(scope="session")
def guest_cache(pytestconfig: pytest.Config) -> Path:
    return Path(pytestconfig.cache.mkdir("python-guest"))  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def sandbox(guest_cache: Path) -> Iterator[Sandbox]:
    with open_sandbox(workers=1, cache=guest_cache) as opened:
        yield opened


@pytest.fixture(scope="session")
def math() -> Iterator[MathVerifier]:
    with open_math_verifier(workers=1) as opened:
        yield opened
