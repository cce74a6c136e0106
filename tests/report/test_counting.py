from collections import Counter

from nanbeige_core.report.counting import count_rows, cross_rows


def test_counts_are_rows_most_frequent_first_and_ties_by_name() -> None:
    counts = Counter({"b": 2, "a": 2, "c": 5})
    assert [row["reason"] for row in count_rows(counts, "reason", "documents")] == ["c", "a", "b"]
    assert count_rows(counts, "reason", "documents", most=1) == [{"reason": "c", "documents": 5}]


def test_a_key_of_parts_fills_a_column_each() -> None:
    rows = count_rows({("wrong", "empty"): 3}, ("outcome", "reason"), "responses")
    assert rows == [{"outcome": "wrong", "reason": "empty", "responses": 3}]


def test_crossed_counts_add_up_to_the_total_of_their_row() -> None:
    rows = cross_rows([("math", "kept"), ("math", "kept"), ("code", "wrong"), ("math", "wrong")], "domain", "prompts")
    assert rows == [
        {"domain": "code", "prompts": 1, "kept": 0, "wrong": 1},
        {"domain": "math", "prompts": 3, "kept": 2, "wrong": 1},
    ]
