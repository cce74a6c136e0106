"""Code problems synthesised backwards, in both styles and any choice of languages, with the real sandbox."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from nanbeige_core.contract import Job, Runtime
from nanbeige_core.data.tables import read_rows
from nanbeige_core.problems import build, programs
from nanbeige_core.problems.program_templates import TEMPLATES
from nanbeige_core.problems.programs import Draft, accept, as_script, draw_draft, draw_drafts
from nanbeige_core.recipe.configs.problems import DomainCounts, ProblemsConfig
from nanbeige_core.recipe.fingerprint import identity_values
from nanbeige_core.verify.code_verifier import CodeVerifier
from nanbeige_core.verify.sandbox import Sandbox, open_sandbox
from nanbeige_core.verify.verdict import VerificationRequest

FUEL = 400_000_000
NONE = DomainCounts()


@pytest.fixture(scope="module")
def sandbox(package_cache: Path) -> Iterator[Sandbox]:
    with open_sandbox(workers=1, cache=package_cache) as opened:
        yield opened


def draft_of(name: str) -> Draft:
    (template,) = [template for template in TEMPLATES if template.name == name]
    return draw_draft(template, Random(0), 6)


def test_every_template_is_accepted_in_both_styles(sandbox: Sandbox) -> None:
    for scripted in (False, True):
        drafts = [draw_draft(template, Random(1), 6) for template in TEMPLATES]
        drafts = [as_script(draft) for draft in drafts] if scripted else drafts
        problems, counts = accept(sandbox, drafts, public=2, fuel_per_test=FUEL)
        assert (counts["programs_failed"], counts["programs_unstable"]) == (0, 0)
        # a draft whose few drawn inputs a constant answers is refused, and drawn again with others in a real run
        assert counts["programs_trivial"] <= 5
        assert {problem.spec.get("style") for problem in problems} == {"stdin" if scripted else None}


def test_a_script_problem_is_judged_by_what_is_printed(sandbox: Sandbox) -> None:
    (problem, *_), _ = accept(sandbox, [as_script(draft_of("add_all"))], public=2, fuel_per_test=FUEL)
    assert problem.prompt.endswith("Spaces separate numbers.")
    assert all(isinstance(text, str) and text.endswith("\n") for pair in problem.spec["private"] for text in pair)
    echo = "```python\nprint(input())\n```"
    spec = json.loads(json.dumps(problem.spec))
    verdicts = CodeVerifier(sandbox).verify([VerificationRequest("p", text, spec) for text in (problem.answer, echo)])
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong"]


def test_a_solution_that_fails_never_answers_or_has_trivial_tests_is_refused(sandbox: Sandbox) -> None:
    fine = draft_of("multiply")
    broken = [
        fine._replace(source="def f(x):\n    return 1 // 0"),
        fine._replace(source="def f(x):\n    while True: pass"),
        fine._replace(source="def f(x):\n    return 7"),
        fine._replace(source="def f(x):\n    return x"),
        as_script(fine)._replace(source="print(1 // 0)"),
        as_script(fine)._replace(source="input(); print(7)"),
    ]
    # one at a time: a bundle that never ends takes its neighbours' first values with it
    results = [accept(sandbox, [draft], public=2, fuel_per_test=FUEL)[1] for draft in [*broken, fine, as_script(fine)]]
    failed, trivial = ([counts[name] for counts in results] for name in ("programs_failed", "programs_trivial"))
    assert failed == [1, 1, 0, 0, 1, 0, 0, 0]
    assert trivial == [0, 0, 1, 1, 0, 1, 0, 0]


def test_a_solution_whose_second_run_answers_otherwise_is_refused(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = draft_of("multiply")
    values = programs.run_alone(sandbox, [fine], FUEL)
    # the engine repeats itself to the instruction, so another first run has to be planted
    monkeypatch.setattr(programs, "produce_values", lambda *_: [[value + 1 for value in values[0]]])
    assert accept(sandbox, [fine], public=2, fuel_per_test=FUEL)[1]["programs_unstable"] == 1


def test_a_share_of_scripts_changes_no_program() -> None:
    drawn = draw_drafts(Random("0/programs"), 20, 6)
    assert [as_script(draft).group for draft in drawn] == [draft.group for draft in drawn]
    assert all(len(as_script(draft).inputs) == len(draft.inputs) for draft in drawn)


@pytest.mark.parametrize(("share", "language"), [(0.0, "en"), (1.0, "zh")])
def test_a_share_of_none_or_all_holds_for_programs_and_dialogues(
    share: float, language: str, package_cache: Path, tmp_path: Path
) -> None:
    some = DomainCounts(math=6, science=4, code=12, general=8, agent=4)
    config = ProblemsConfig(
        chinese_share=share, stdin_share=0.5, word_problem_share=0.0, pretrain=NONE, sft=some, overall=NONE, rl=some,
        heldout=some, eval=NONE,
    )  # fmt: skip
    build.run(Job("problems", config, Runtime(), {}, tmp_path, package_cache))
    rows = list(read_rows(tmp_path / "prompts.parquet"))
    assert len(rows) == 3 * 34
    assert {row["language"] for row in rows} == {language}
    assert {json.loads(row["spec"]).get("style") for row in rows if row["domain"] == "code"} == {None, "stdin"}


def test_old_fingerprints_stand_where_the_result_does() -> None:
    assert not {"pool_language", "stdin_share"} & identity_values(ProblemsConfig()).keys()
    assert identity_values(ProblemsConfig(chinese_share=0.0))["pool_language"] == "en"
    assert "pool_language" not in identity_values(ProblemsConfig(chinese_share=0.0, pool_language="both"))
