from pathlib import Path

import pytest

from nanbeige_core.contract import Job, Runtime
from nanbeige_core.problems import build
from nanbeige_core.recipe.configs.problems import DomainCounts, ProblemsConfig

SMALL = ProblemsConfig(
    word_problem_share=0.0,
    pretrain=DomainCounts(math=40, science=20, code=16, general=20, agent=10),
    sft=DomainCounts(math=60, science=36, code=24, general=0, agent=0),
    overall=DomainCounts(math=20, science=10, code=8, general=20, agent=10),
    rl=DomainCounts(math=20, science=0, code=16, general=20, agent=0),
    heldout=DomainCounts(math=20, science=10, code=8, general=10, agent=6),
    eval=DomainCounts(math=10, science=5, code=8, general=5, agent=4),
)


@pytest.fixture(scope="session")
def package_cache(pytestconfig: pytest.Config) -> Path:
    """Return a lasting directory for wheels and the compiled guest; both are made once per checkout."""
    return Path(pytestconfig.cache.mkdir("python-guest"))  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def problems(package_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("problems")
    build.run(Job("problems", SMALL, Runtime(), {}, work, package_cache))
    return work
