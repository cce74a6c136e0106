"""Quality tagging: annotate a sample, distil the labels into one student, tag the whole pool in one pass.

The sample holds clean documents and copies with damage of known severity. Its held-out part (whole documents with
their damaged copies) is never seen by the student nor by the language model, and yields every reported number.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls
from scipy.stats import rankdata

from nanbeige_core.contract import Gain, Job, Outcome, Plot, Section
from nanbeige_core.data.annotators import (
    CONTENT_LABELS,
    CONTENT_MEASURES,
    FORMAT_LABELS,
    GRADED_LABELS,
    LABELS,
    measure_format,
)
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.corruptions import CORRUPTIONS
from nanbeige_core.data.ingest import CORPUS_SCHEMA
from nanbeige_core.data.student import Student, featurise, fit_student, predict_labels
from nanbeige_core.data.tables import read_rows, table_files, write_rows
from nanbeige_core.evals.records import write_records
from nanbeige_core.recipe.configs.data import QualityTaggingConfig

TAGGED_SCHEMA = pa.schema(
    [*CORPUS_SCHEMA, *((name, pa.float32()) for name in LABELS), ("tag_score", pa.float32()), ("gate", pa.string())]
)
FOLDS = 4
SCORE_LABELS = {
    "content": slice(0, len(CONTENT_LABELS)),
    "format": slice(len(CONTENT_LABELS), len(LABELS)),
    "all": slice(0, len(LABELS)),
}
"""Which of LABELS make up the tag score."""

BINARY_LIMIT = 4.5
"""Grade from which a binary annotator says good: the middle of the scale."""

OUTSCORES_COPY = "outscores_damaged_copy"
"""Per-problem measure: 1 when a held-out document outscores its own damaged copy, 0.5 for a tie."""

PULL_TO_MEAN = 0.02
"""Penalty per document that pulls the weights of the score to the plain mean."""

REFERENCE_DOCUMENTS = 2500
"""Documents the character model reads; none of them is held out."""


@dataclass(frozen=True)
class Example:
    """One annotated document: its labels, whether it was damaged, how, and the number of its clean parent."""

    text: str
    language: str
    labels: NDArray[np.float64]
    severity: float
    corruption: str
    graded: bool
    held_out: bool
    parent: int = -1
    id: str = ""


def run(job: Job) -> Outcome:
    """Write the pool with twenty labels, a tag score and a gate reason for each document."""
    config: QualityTaggingConfig = job.config
    folder = job.inputs["corpus"].path / "documents"
    rows = list(read_rows(folder, columns=("id", "text", "language", "provenance")))
    sample, reference = _draw(rows, config)
    model = CharacterModel()
    for row in reference:
        model.learn(row["text"][:2000])
    job.progress(0.2, f"annotating {len(sample)} documents")
    examples = build_examples(sample, model, config)
    student, weights = distil(examples, model, config)
    job.progress(0.5, "tagging the pool")
    gated = _tag_pool(job, folder, model, student, weights, config)
    outcome, records = _report(examples, model, student, weights, config, gated, len(rows))
    write_records(job.work, {OUTSCORES_COPY: records})
    return outcome


def build_examples(sample: list[dict[str, Any]], model: CharacterModel, config: QualityTaggingConfig) -> list[Example]:
    """Annotate clean documents and derive damaged copies; one copy for a `corrupted_share` of the result."""
    source = random.Random(config.seed)
    clean = _annotate_clean(sample, model, config)
    wanted = int(len(clean) * config.corrupted_share / (1 - config.corrupted_share))
    damaged: list[Example] = []
    for number in range(wanted):
        origin = number % len(clean)
        parent = clean[origin]
        # a splice takes its other text from the same side of the split, so nothing held out leaks
        others = (clean[(number * 7 + step) % len(clean)] for step in range(1, 40))
        other = next((item for item in others if item.held_out == parent.held_out), parent)
        corruption = CORRUPTIONS[number % len(CORRUPTIONS)]
        severity = source.uniform(0.3, 1.0)
        text = corruption.apply(parent.text, severity, source, other.text)
        if text != parent.text:
            factors = np.array([1 - severity * corruption.effects.get(name, 0.0) for name in LABELS])
            labels = parent.labels * factors
            damaged.append(
                Example(text, parent.language, labels, severity, corruption.name, False, parent.held_out, origin)
            )
    return clean + damaged


def distil(
    examples: list[Example], model: CharacterModel, config: QualityTaggingConfig
) -> tuple[Student, NDArray[np.float64]]:
    """Fit the student on the training examples, then the weights that turn its chosen labels into a score."""
    training = [example for example in examples if not example.held_out]
    rows, surface = featurise(
        [example.text for example in training], model, config.hash_buckets, config.feature_characters
    )
    annotated = np.stack([example.labels for example in training])
    targets = _grade(annotated, config)
    student = fit_student(rows, surface, targets, config.ridge)
    chosen = SCORE_LABELS[config.score_labels]
    if config.aggregate == "mean":
        count = len(LABELS[chosen])
        return student, np.full(count, 1.0 / count)
    labels_DL = _cross_fit(rows, surface, targets, config)[:, chosen]
    intact = np.array([1 - example.severity for example in training])
    goal = _grade(annotated[:, chosen].mean(axis=1) * intact, config)
    return student, _weigh_labels(labels_DL, goal)


def _grade(values: NDArray[np.float64], config: QualityTaggingConfig) -> NDArray[np.float64]:
    """Return what the annotators would have answered on the configured scale: a grade, or only good and bad."""
    return np.where(values >= BINARY_LIMIT, 9.0, 0.0) if config.label_scale == "binary" else values


def score_labels(labels_DL: NDArray[np.float64], weights: NDArray[np.float64], chosen: slice) -> NDArray[np.float64]:
    """Return the tag score on the 0-9 scale from the chosen labels."""
    return np.clip(labels_DL[:, chosen] @ weights, 0.0, 9.0)


def find_gate(labels: NDArray[np.float64], gates: dict[str, int]) -> str:
    """Return the format label that fails worst as `name<limit`, or an empty string."""
    failed = [
        (labels[LABELS.index(name)] - limit, f"{name}<{limit}")
        for name, limit in sorted(gates.items())
        if labels[LABELS.index(name)] < limit
    ]
    return min(failed)[1] if failed else ""


def measure_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a clean document outscores a damaged one (ties count half)."""
    wins = rankdata(scores)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / max(1, positive.sum() * (~positive).sum()))


def _draw(
    rows: list[dict[str, Any]], config: QualityTaggingConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    order = sorted(rows, key=lambda row: row["id"].rsplit("-", 1)[-1])
    random.Random(config.seed).shuffle(order)
    clean = int(config.annotated_documents * (1 - config.corrupted_share))
    held_out = int(clean * config.held_out_share)
    # held-out documents come first and stay out of the language model's reference
    return order[:clean], order[held_out : held_out + REFERENCE_DOCUMENTS]


def _annotate_clean(sample: list[dict[str, Any]], model: CharacterModel, config: QualityTaggingConfig) -> list[Example]:
    bits = [model.measure_bits(row["text"][:2000]) for row in sample]
    raw = np.array(
        [
            [CONTENT_MEASURES[name](row["text"], bit) for name in CONTENT_LABELS]
            for row, bit in zip(sample, bits, strict=True)
        ]
    )
    content = np.zeros_like(raw)
    languages = np.array([row["language"] for row in sample])
    for language in sorted(set(languages)):
        chosen = languages == language
        content[chosen] = (rankdata(raw[chosen], axis=0) - 0.5) / chosen.sum() * 9.0
    held_out = int(len(sample) * config.held_out_share)
    examples: list[Example] = []
    for index, row in enumerate(sample):
        grades: dict[str, int] = json.loads(row["provenance"]).get("grades", {})
        for label, grade in GRADED_LABELS.items():
            if grade in grades:
                content[index, CONTENT_LABELS.index(label)] = min(9.0, float(grades[grade]))
        shape = measure_format(row["text"], row["language"])
        labels = np.concatenate([content[index], [shape[name] for name in FORMAT_LABELS]])
        examples.append(
            Example(
                row["text"], row["language"], labels, 0.0, "", bool(grades), held_out=index < held_out, id=row["id"]
            )
        )
    return examples


def _cross_fit(
    rows: sparse.csr_matrix, surface: NDArray[np.float64], targets: NDArray[np.float64], config: QualityTaggingConfig
) -> NDArray[np.float64]:
    """Return labels that each document got from a student that did not see it: honest inputs for the weights."""
    labels_DL = np.zeros_like(targets)
    fold = np.random.default_rng(config.seed).integers(0, FOLDS, len(targets))
    for number in range(FOLDS):
        seen = fold != number
        student = fit_student(rows[seen], surface[seen], targets[seen], config.ridge)
        labels_DL[~seen] = predict_labels(student, rows[~seen], surface[~seen])
    return labels_DL


def _weigh_labels(labels: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve a ridge regression with weights that are not negative, so that a better label never lowers the score."""
    size = labels.shape[1]
    pull = np.sqrt(PULL_TO_MEAN * len(labels))
    left = np.vstack([labels, pull * np.eye(size)])
    weights, _ = nnls(left, np.concatenate([goal, np.full(size, pull / size)]))
    return weights


def _tag_pool(
    job: Job,
    folder: Path,
    model: CharacterModel,
    student: Student,
    weights: NDArray[np.float64],
    config: QualityTaggingConfig,
) -> dict[str, int]:
    """Write one tagged file per input file; files that an interrupted run wrote are kept."""
    gated: dict[str, int] = {}
    files = table_files(folder)
    for number, file in enumerate(files):
        target = job.work / "documents" / file.name
        if not target.exists():
            rows = list(read_rows(file, columns=CORPUS_SCHEMA.names))
            features = featurise([row["text"] for row in rows], model, config.hash_buckets, config.feature_characters)
            labels_DL = predict_labels(student, *features)
            scores = score_labels(labels_DL, weights, SCORE_LABELS[config.score_labels])
            for row, labels, score in zip(rows, labels_DL, scores, strict=True):
                row.update(zip(LABELS, map(float, labels), strict=True))
                row.update(tag_score=float(score), gate=find_gate(labels, config.gates))
            write_rows(target, TAGGED_SCHEMA, rows)
        for row in read_rows(target, columns=("gate",)):
            gated[row["gate"]] = gated.get(row["gate"], 0) + 1
        job.progress(0.5 + 0.5 * (number + 1) / len(files), f"tagged file {number + 1} of {len(files)}")
    return gated


def _report(
    examples: list[Example],
    model: CharacterModel,
    student: Student,
    weights: NDArray[np.float64],
    config: QualityTaggingConfig,
    gated: dict[str, int],
    documents: int,
) -> tuple[Outcome, dict[str, float]]:
    """Return the outcome, and for each held-out pair whether the clean document outscored its copy."""
    held = [example for example in examples if example.held_out]
    features = featurise([example.text for example in held], model, config.hash_buckets, config.feature_characters)
    labels_DL = predict_labels(student, *features)
    scores = score_labels(labels_DL, weights, SCORE_LABELS[config.score_labels])
    spearman = _spearman_rows(held, labels_DL)
    # held-out documents come first in `examples`, so a parent has the same number in `held`
    pairs = [(number, example) for number, example in enumerate(held) if example.parent >= 0]
    wins = np.array([_win(scores[example.parent], scores[number]) for number, example in pairs])
    clean = np.array([example.parent < 0 for example in held])
    mean_rho = float(np.mean([row["spearman"] for row in spearman]))
    spread = 1.96 * float(wins.std(ddof=1)) / len(wins) ** 0.5
    reasons = {name: count for name, count in sorted(gated.items()) if name}
    records = {
        f"{held[example.parent].id}:{example.corruption}": float(win)
        for (_, example), win in zip(pairs, wins, strict=True)
    }
    outcome = Outcome(
        summary=f"Tagged {documents:,} documents with {len(LABELS)} labels; held-out rank correlation with the "
        f"annotators {mean_rho:.2f} on average, {sum(reasons.values()):,} documents fail a format gate.",
        counts={
            "read": documents,
            "kept": gated.get("", 0),
            "gated": sum(reasons.values()),
            **{f"gated_{name.split('<')[0]}": count for name, count in reasons.items()},
            "annotated": len(examples),
            "held_out": len(held),
        },
        metrics={"spearman_mean": mean_rho, "auc_clean_against_damaged": measure_auc(scores, clean)},
        gain=Gain(
            metric="share of held-out documents that outscore their own damaged copy (chance 0.5)",
            before=0.5,
            after=float(wins.mean()),
            n=len(wins),
            low=float(wins.mean()) - spread - 0.5,
            high=float(wins.mean()) + spread - 0.5,
        ),
        sections=[
            _agreement_section(spearman),
            Section(
                title="What the score notices",
                text="Share of held-out documents that outscore their own copy with one kind of damage. Damage that "
                "touches format alone is the business of the gates.",
                table=_damage_rows([example for _, example in pairs], wins),
            ),
            Section(
                title="Weights of the tag score",
                table=[
                    {"label": name, "weight": round(float(weight), 3)}
                    for name, weight in zip(LABELS[SCORE_LABELS[config.score_labels]], weights, strict=True)
                ],
            ),
        ],
    )
    return outcome, records


def _win(clean: float, damaged: float) -> float:
    return 0.5 if clean == damaged else float(clean > damaged)


def _agreement_section(spearman: list[dict[str, Any]]) -> Section:
    return Section(
        title="Held-out agreement of the student with the annotators",
        text="Spearman over held-out documents, damaged copies included; `graded` only over programs that "
        "a large model graded. A constant predictor has 0.",
        table=spearman,
        plot=Plot(
            kind="bar",
            x=[row["label"] for row in spearman],
            series={"spearman": [row["spearman"] for row in spearman]},
            x_label="label",
            y_label="held-out Spearman",
        ),
    )


def _damage_rows(damaged: list[Example], wins: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for corruption in CORRUPTIONS:
        chosen = np.array([example.corruption == corruption.name for example in damaged])
        if chosen.any():
            share = round(float(wins[chosen].mean()), 3)
            rows.append({"damage": corruption.name, "clean_wins": share, "pairs": int(chosen.sum())})
    return rows


def _spearman_rows(held: list[Example], labels_DL: NDArray[np.float64]) -> list[dict[str, Any]]:
    targets = np.stack([example.labels for example in held])
    graded = np.array([example.graded for example in held])
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(LABELS):
        kind = "content" if name in CONTENT_LABELS else "format"
        row = {"label": name, "kind": kind, "spearman": _spearman(targets[:, index], labels_DL[:, index])}
        if name in GRADED_LABELS and graded.sum() >= 10:
            row["graded"] = _spearman(targets[graded, index], labels_DL[graded, index])
        rows.append(row)
    return rows


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return round(float(np.corrcoef(rankdata(first), rankdata(second))[0, 1]), 3)
