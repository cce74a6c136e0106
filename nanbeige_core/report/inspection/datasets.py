"""Inspect what models are trained on and measured with: prompts, chat samples, pairs, pass rates, token sets."""

import json
from collections import Counter
from typing import Any

import numpy as np

from nanbeige_core.contract import Plot, Section
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.counting import count_rows, cross_counted
from nanbeige_core.report.inspection.reading import (
    bar,
    count_by,
    decile_rows,
    histogram_section,
    score_of_rows,
    shorten,
)

_PROMPTS, _SAMPLES, _PAIRS = "prompts.parquet", "samples.parquet", "pairs.parquet"
_ROLLOUTS = "rollouts.parquet"
_RATES = "pass_rates.parquet"


def inspect_prompts(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return problems by split, domain, language, source and verifier, with examples of each domain."""
    return [
        _cross(files, _PROMPTS, ("split", "domain"), "problems"),
        _cross(files, _PROMPTS, ("source", "language"), "problems"),
        _cross(files, _PROMPTS, ("domain", "verifier"), "problems"),
        *_examples_by(files, _PROMPTS, "domain", ("split", "source", "prompt", "reasoning", "answer"), examples),
    ]


def inspect_sft(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return chat samples by domain and source, their lengths, what was dropped, and examples of each domain."""
    dropped = count_by(files, "dropped.parquet", ["domain", "reason"])
    sections = [
        _cross(files, _SAMPLES, ("domain", "source"), "samples", turned=True),
        _lengths(files, _SAMPLES, ["messages"]),
        *([Section(title="Dropped by domain and reason", table=cross_counted(_two(dropped), "domain", "dropped"))]
          if dropped else []),
        *_examples_by(files, _SAMPLES, "domain", ("source", "messages"), examples),
    ]  # fmt: skip
    return [_as_turns(section) for section in sections]


def inspect_pairs(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return preference pairs by domain and source, lengths of both sides, and examples of each domain."""
    return [
        _cross(files, _PAIRS, ("source", "domain"), "pairs"),
        _lengths(files, _PAIRS, ["chosen", "rejected"]),
        *_examples_by(files, _PAIRS, "domain", ("source", "prompt", "chosen", "rejected"), examples),
    ]


def inspect_pass_rates(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return the histogram of rates, outcomes by reason, and responses to prompts of each tenth by pass rate."""
    rates = score_of_rows(files, _RATES, "rate")
    histogram = histogram_section("Pass rates", rates, x_label="pass rate", unit="prompts", bins=20)
    reasons = count_by(files, _ROLLOUTS, ["verdict", "reason"])
    return [
        *([histogram] if histogram else []),
        Section(title="Outcomes by reason", table=count_rows(reasons, ("verdict", "reason"), "responses", most=20)),
        *_rate_deciles(files, rates, examples),
    ]


def inspect_mixture(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return tokens and documents of each set (the stage reports its weight in each phase), and how long they are."""
    del examples  # token ids are no examples to read
    sets: list[dict[str, Any]] = files.read_json("mixture.json")["sets"]
    total = max(1, sum(entry["tokens"] for entry in sets))
    table = [
        {
            "set": entry["name"],
            "documents": entry["documents"],
            "tokens": entry["tokens"],
            "share": bar(entry["tokens"] / total),
        }
        for entry in sets
    ]
    plot = Plot(
        kind="bar",
        x=[str(row["set"]) for row in table],
        series={"tokens": [float(row["tokens"]) for row in table]},
        x_label="set",
        y_label="tokens",
    )
    lengths = histogram_section(
        "Tokens of a document", np.log10(np.maximum(score_of_rows(files, "sidecar.parquet", "tokens"), 1)),
        x_label="log10 of tokens", unit="documents",
    )  # fmt: skip
    return [Section(title="Tokens of each set", table=table, plot=plot), *([lengths] if lengths else [])]


def _cross(files: ArtifactFiles, pattern: str, columns: tuple[str, str], unit: str, *, turned: bool = False) -> Section:
    counts = _two(count_by(files, pattern, columns))
    if turned:
        counts = {(second, first): count for (first, second), count in counts.items()}
    row, column = reversed(columns) if turned else columns
    return Section(title=f"{unit.capitalize()} by {row} and {column}", table=cross_counted(counts, row, unit))


def _two(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, str], int]:
    return {(key[0] or "none", key[1] or "none"): count for key, count in counts.items()}


def _lengths(files: ArtifactFiles, pattern: str, columns: list[str]) -> Section:
    """Return quantiles of text lengths in characters."""
    lengths: dict[str, list[int]] = {name: [] for name in columns}
    for batch in files.batches(pattern, columns):
        for name in columns:
            if name in batch.schema.names:
                lengths[name] += [len(text or "") for text in batch.column(name).to_pylist()]
    table = [
        {
            "column": name,
            **{label: int(np.quantile(values, at)) for label, at in (("median", 0.5), ("90 %", 0.9), ("longest", 1.0))},
        }
        for name, values in lengths.items()
        if values
    ]
    return Section(title="Lengths in characters", table=table)


def _examples_by(
    files: ArtifactFiles, pattern: str, key: str, columns: tuple[str, ...], examples: int
) -> list[Section]:
    """Return the first rows of each value of `key`, spread over the table by taking every so many."""
    numbers: dict[str, list[int]] = {}
    first = 0
    for batch in files.batches(pattern, [key]):
        for at, value in enumerate(batch.column(key).to_pylist()):
            numbers.setdefault(str(value), []).append(first + at)
        first += batch.num_rows
    chosen = {
        value: [rows[round(at * (len(rows) - 1) / max(1, examples - 1))] for at in range(min(examples, len(rows)))]
        for value, rows in sorted(numbers.items())
    }
    found = files.pick_rows(pattern, [number for rows in chosen.values() for number in rows], columns)
    return [
        Section(title=f"Examples of {key} {value}", table=[shorten(found[number]) for number in rows])
        for value, rows in chosen.items()
        if rows
    ]


def _rate_deciles(files: ArtifactFiles, rates: np.ndarray, examples: int) -> list[Section]:
    """Show, for prompts of each tenth by pass rate, their first response."""
    deciles = decile_rows(rates, examples)
    found = files.pick_rows(_RATES, [n for part in deciles for n in part], ["prompt_id", "rate"])
    wanted = {row["prompt_id"] for row in found.values()}
    responses: dict[str, dict[str, Any]] = {}
    for batch in files.batches(_ROLLOUTS, ["prompt_id", "text", "verdict", "reason"]):
        for row in batch.to_pylist():
            if row["prompt_id"] in wanted:
                responses.setdefault(row["prompt_id"], row)
    prompts = _prompt_texts(files, wanted)
    sections: list[Section] = []
    for number, part in enumerate(deciles, start=1):
        table: list[dict[str, Any]] = []
        for row in (found[at] for at in part):
            response = responses.get(row["prompt_id"], {})
            table.append(
                shorten(
                    {
                        "rate": row["rate"],
                        "verdict": response.get("verdict", ""),
                        "reason": response.get("reason", ""),
                        "prompt": prompts.get(row["prompt_id"], row["prompt_id"]),
                        "response": response.get("text", ""),
                    }
                )
            )
        if table:
            sections.append(Section(title=f"Examples of decile {number} of 10 by pass rate", table=table))
    return sections


def _prompt_texts(files: ArtifactFiles, wanted: set[str]) -> dict[str, str]:
    problems = files.input_files("problems")
    found: dict[str, str] = {}
    if problems is not None:
        for batch in problems.batches(_PROMPTS, ["id", "prompt"]):
            ids, texts = batch.column("id").to_pylist(), batch.column("prompt").to_pylist()
            found |= {key: text for key, text in zip(ids, texts, strict=True) if key in wanted}
    return found


def _as_turns(section: Section) -> Section:
    """Show a sample's messages (JSON) as one text per role."""
    table: list[dict[str, Any]] = []
    for row in section.table:
        turns = _turns(row.get("messages"))
        table.append({**{k: v for k, v in row.items() if k != "messages"}, **turns} if turns else row)
    return section.model_copy(update={"table": table})


def _turns(messages: Any) -> dict[str, str]:
    try:
        parsed = json.loads(messages) if isinstance(messages, str) else []
    except ValueError:
        return {}  # cut off by `shorten`: shown as it is
    turns: dict[str, str] = {}
    for message in parsed:
        if isinstance(message, dict):
            text = "\n\n".join(str(message[key]) for key in ("reasoning", "content") if message.get(key))
            name = str(message.get("role", "turn"))
            turns[name] = f"{turns[name]}\n\n{text}" if name in turns else text
    return turns
