import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nanbeige_core.contract import Job, Runtime
from nanbeige_core.data.tables import read_rows
from nanbeige_core.problems import build
from nanbeige_core.sft.dataset import check_answers
from tests.problems.conftest import SMALL


@pytest.fixture
def rows(problems: Path) -> list[dict[str, Any]]:
    return list(read_rows(problems / "prompts.parquet"))


def test_every_split_has_the_wanted_count_of_each_domain(rows: list[dict[str, Any]]) -> None:
    found = Counter((row["split"], row["domain"]) for row in rows)
    assert found["sft", "math"] == SMALL.sft.math
    assert found["heldout", "code"] == SMALL.heldout.code
    assert found["rl", "general"] == SMALL.rl.general


def test_no_question_and_no_measured_operands_stand_in_two_splits(rows: list[dict[str, Any]]) -> None:
    assert build.count_overlaps(rows) == {"questions_in_two_splits": 0, "measured_operands_in_training": 0}


def test_an_overlap_is_noticed(rows: list[dict[str, Any]]) -> None:
    moved = {**rows[0], "split": "pretrain", "prompt": rows[0]["prompt"].upper() + " "}
    assert build.count_overlaps([*rows, moved])["questions_in_two_splits"] == 1


def test_row_ids_are_unique(rows: list[dict[str, Any]]) -> None:
    assert len({row["id"] for row in rows}) == len(rows)


def test_every_reference_response_is_judged_correct(rows: list[dict[str, Any]], package_cache: Path) -> None:
    checked = [row for row in rows if row["verifier"] != "pairwise"]
    verdicts = check_answers(checked, workers=1, cache=package_cache)
    assert {verdict.outcome for verdict in verdicts} == {"correct"}


def test_every_program_has_public_and_private_tests(rows: list[dict[str, Any]]) -> None:
    specs = [json.loads(row["spec"]) for row in rows if row["domain"] == "code"]
    assert all(len(s["public"]) == 2 and len(s["private"]) == 4 for s in specs)


def test_general_problems_have_a_reference(rows: list[dict[str, Any]]) -> None:
    assert all(row["answer"] for row in rows if row["domain"] == "general")


def test_the_same_config_gives_the_same_problems(
    rows: list[dict[str, Any]], package_cache: Path, tmp_path: Path
) -> None:
    build.run(Job("problems", SMALL, Runtime(), {}, tmp_path, package_cache))
    assert list(read_rows(tmp_path / "prompts.parquet")) == rows
