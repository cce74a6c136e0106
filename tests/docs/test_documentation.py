"""Every command of the documentation works: executed in a copy of the project, or checked against the code."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import Block, blocks_of, inline_commands, is_shell
from tests.docs.checking import nanbeige_problems, problems_of
from tests.docs.sandbox import Sandbox

PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = ROOT / "README.md"
NEW_STAGE = ROOT / "docs/how-to/new-stage.md"
TUTORIAL = ROOT / "docs/tutorial.md"
EXECUTED = {"run", "plan"}


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_shell_block_says_how_it_is_tested(page: Path) -> None:
    unmarked = [str(block) for block in blocks_of(page) if is_shell(block) and block.mode is None]
    assert not unmarked, f"put <!-- test: run --> (or plan, check) above each; see docs/README.md: {unmarked}"


@pytest.mark.parametrize("page", [README, *PAGES], ids=page_id)
def test_every_command_exists_with_its_options_and_overrides(page: Path) -> None:
    blocks = [block for block in blocks_of(page) if is_shell(block) and not block.exit_status]
    if page == NEW_STAGE:  # its commands name the stage that the page adds
        blocks = []
    found = {str(block): problems for block in blocks if (problems := problems_of(block.script))}
    for text in inline_commands(page):
        words = text.split()[1:]
        if len(words) > 1 and (problems := nanbeige_problems(words)):  # a command alone is spoken of, not typed
            found[text] = problems
    assert found == {}


@pytest.mark.parametrize("page", [README, *PAGES], ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name} links to {target}"


@pytest.fixture(scope="module")
def after_tutorial(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Follow the tutorial in a fresh copy of the project."""
    sandbox = Sandbox.make(tmp_path_factory.mktemp("tutorial"), prefect_api)
    sandbox.follow(blocks_of(TUTORIAL))
    return sandbox


@pytest.mark.server
@pytest.mark.slow
def test_the_tutorial_can_be_followed(after_tutorial: Sandbox) -> None:
    store = after_tutorial.folder / "store"
    assert len(list(store.glob("retrieval_dedup/*/.artifact.json"))) == 2
    assert len(list(store.glob(".pins/tokenizer-*.json"))) == 1


def executed_pages() -> list[Path]:
    pages = [README, *PAGES]
    rest = [page for page in pages if page not in (TUTORIAL, NEW_STAGE)]
    return [page for page in rest if any(block.mode in EXECUTED for block in blocks_of(page))]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("page", executed_pages(), ids=page_id)
def test_every_page_can_be_followed_after_the_tutorial(page: Path, after_tutorial: Sandbox, tmp_path: Path) -> None:
    after_tutorial.copy(tmp_path / "sandbox").follow(blocks_of(page))


@pytest.mark.server
@pytest.mark.slow
def test_the_new_stage_of_the_documentation_runs_and_is_short(after_tutorial: Sandbox, tmp_path: Path) -> None:
    sandbox = after_tutorial.copy(tmp_path / "sandbox")
    blocks = blocks_of(NEW_STAGE)
    sandbox.follow(blocks)
    assert len(list((sandbox.folder / "store/boilerplate").glob("*/documents/*.parquet"))) == 1
    assert sum(written_lines(block) for block in blocks) < 60


def written_lines(block: Block) -> int:
    """Count the lines a person writes: not the blank ones, not a patch's context."""
    lines = [line for line in block.text.splitlines() if line.strip()]
    if block.mode == "apply":
        return sum(line.startswith("+") and not line.startswith("+++") for line in lines)
    return len(lines) if block.mode == "write" else 0
