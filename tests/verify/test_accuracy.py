from pathlib import Path

import pytest

from nanbeige_core.verify.accuracy import LabelledPair, judge_pairs, mistakes, read_labelled_pairs, tabulate
from nanbeige_core.verify.math_verifier import MathVerifier
from nanbeige_core.verify.verdict import Verdict

PAIRS = read_labelled_pairs(Path(__file__).parent / "labelled_pairs.tsv")


@pytest.fixture(scope="module")
def verdicts(math: MathVerifier) -> list[Verdict]:
    return judge_pairs(math, PAIRS)


def test_the_labels_cover_both_languages_and_every_kind_of_trick() -> None:
    assert {pair.language for pair in PAIRS} == {"en", "zh"}
    assert {"hedge", "chain", "unit", "degree", "complex", "hostile"} <= {pair.category for pair in PAIRS}


def test_no_wrong_answer_is_accepted(verdicts: list[Verdict]) -> None:
    accepted = [item.pair for item in mistakes(PAIRS, verdicts) if item.verdict.outcome == "correct"]
    assert accepted == []


def test_nearly_every_pair_is_judged_as_labelled(verdicts: list[Verdict]) -> None:
    total = tabulate(PAIRS, verdicts)[-1]
    assert total.right / total.pairs > 0.99


def test_a_table_counts_each_kind_of_mistake() -> None:
    pairs = [LabelledPair("a", "en", "wrong", "1", "2"), LabelledPair("a", "en", "correct", "2", "2")]
    row = tabulate(pairs, [Verdict("correct", "", ""), Verdict("unscored", "", "")])[-1]
    assert (row.false_accepts, row.false_rejects, row.unscored, row.right) == (1, 0, 1, 0)


def test_a_label_that_is_no_judgement_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("category\tlanguage\tlabel\tanswer\tgold\na\ten\tmaybe\t1\t2\n")
    with pytest.raises(ValueError, match="labels.tsv:2"):
        read_labelled_pairs(tmp_path / "labels.tsv")
