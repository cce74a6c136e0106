"""Quality tagging: annotate a sample, distil the labels into one student, tag the whole pool in one pass.

The sample holds clean documents and copies with damage of known severity. Its held-out part (whole documents with
their damaged copies) is never seen by the student nor by the language model, and yields every reported number.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls
from scipy.stats import rankdata

from nanbeige_core.contract import Gain, Job, Outcome, Plot, Section
from nanbeige_core.data.annotators import GRADED_LABELS
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.corruptions import CORRUPTIONS
from nanbeige_core.data.student import Student, featurise, fit_student, predict_labels
from nanbeige_core.data.tables import read_table, take_rows
from nanbeige_core.data.tagging.examples import Example, build_examples
from nanbeige_core.data.tagging.label_set import BUILT_IN, LabelSet, read_label_set
from nanbeige_core.data.tagging.tagger import Tagger, score_labels, tag_pool, tagged_schema
from nanbeige_core.evals.records import write_records
from nanbeige_core.recipe.configs.data import QualityTaggingConfig

TAGGED_SCHEMA = tagged_schema(BUILT_IN)
FOLDS = 4

BINARY_LIMIT = 4.5
"""Grade from which a binary annotator says good: the middle of the scale."""

OUTSCORES_COPY = "outscores_damaged_copy"
"""Per-problem measure: 1 when a held-out document outscores its own damaged copy, 0.5 for a tie."""

PULL_TO_MEAN = 0.02
"""Penalty per document that pulls the weights of the score to the plain mean."""

SAMPLE_COLUMNS = ("id", "text", "language", "provenance")
LEAST_TAUGHT = 2 * FOLDS
"""Documents that the tagger is taught with: two for each fold."""

REFERENCE_DOCUMENTS = 2500
"""Documents the character model reads; none of them is held out."""


def run(job: Job) -> Outcome:
    """Write the pool with twenty labels, a tag score and a gate reason for each document."""
    config: QualityTaggingConfig = job.config
    chosen = job.inputs.get("dimensions")
    label_set = read_label_set(chosen.path) if chosen else BUILT_IN
    folder = job.inputs["corpus"].path / "documents"
    sample, reference = draw(folder, config)
    model = CharacterModel()
    for row in reference:
        model.learn(row["text"][:2000])
    job.progress(0.2, f"annotating {len(sample)} documents")
    examples = build_examples(sample, model, config, label_set)
    student, weights = distil(examples, model, config, label_set)
    job.progress(0.5, "tagging the pool")
    gated = tag_pool(job, folder, Tagger(model, student, weights), config, label_set)
    outcome, records = _report(examples, model, student, weights, config, label_set, gated)
    write_records(job.work, {OUTSCORES_COPY: records})
    return outcome


def distil(
    examples: list[Example], model: CharacterModel, config: QualityTaggingConfig, label_set: LabelSet = BUILT_IN
) -> tuple[Student, NDArray[np.float64]]:
    """Fit the student on the training examples, then the weights that turn its chosen labels into a score."""
    training = [example for example in examples if not example.held_out]
    rows, surface = featurise(
        [example.text for example in training], model, config.hash_buckets, config.feature_characters
    )
    annotated = np.stack([example.labels for example in training])
    targets = _grade(annotated, config)
    student = fit_student(rows, surface, targets, config.ridge)
    chosen = label_set.chosen(config.score_labels)
    if config.aggregate == "mean":
        count = len(label_set.names[chosen])
        return student, np.full(count, 1.0 / count)
    labels_DL = _cross_fit(rows, surface, targets, config)[:, chosen]
    intact = np.array([1 - example.severity for example in training])
    goal = _grade(annotated[:, chosen].mean(axis=1) * intact, config)
    return student, _weigh_labels(labels_DL, goal)


def _grade(values: NDArray[np.float64], config: QualityTaggingConfig) -> NDArray[np.float64]:
    """Return what the annotators would have answered on the configured scale: a grade, or only good and bad."""
    return np.where(values >= BINARY_LIMIT, 9.0, 0.0) if config.label_scale == "binary" else values


def measure_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the chance that a clean document outscores a damaged one (ties count half)."""
    wins = rankdata(scores)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / max(1, positive.sum() * (~positive).sum()))


def draw(folder: Path, config: QualityTaggingConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the documents to annotate and those of the language model; the texts of no others are held."""
    ids: list[str] = read_table(folder, ["id"])["id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda number: ids[number].rsplit("-", 1)[-1])
    random.Random(config.seed).shuffle(order)
    clean = int(config.annotated_documents * (1 - config.corrupted_share))
    held_out = int(clean * config.held_out_share)
    if len(order) < held_out + LEAST_TAUGHT:
        raise ValueError(
            f"the corpus has {len(order)} documents; {held_out} are held out and at least {LEAST_TAUGHT} others teach "
            "the tagger. Lower annotated_documents or ingest more."
        )
    sample = take_rows(folder, order[:clean], SAMPLE_COLUMNS)
    # held-out documents come first and stay out of the language model's reference
    return sample, take_rows(folder, order[held_out : held_out + REFERENCE_DOCUMENTS], SAMPLE_COLUMNS)


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


def _report(
    examples: list[Example],
    model: CharacterModel,
    student: Student,
    weights: NDArray[np.float64],
    config: QualityTaggingConfig,
    label_set: LabelSet,
    gated: dict[str, int],
) -> tuple[Outcome, dict[str, float]]:
    """Return the outcome, and for each held-out pair whether the clean document outscored its copy."""
    documents = sum(gated.values())
    held = [example for example in examples if example.held_out]
    features = featurise([example.text for example in held], model, config.hash_buckets, config.feature_characters)
    labels_DL = predict_labels(student, *features)
    scores = score_labels(labels_DL, weights, label_set.chosen(config.score_labels))
    spearman = _spearman_rows(held, labels_DL, label_set)
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
        summary=f"Tagged {documents:,} documents with {len(label_set.names)} labels; held-out rank correlation with "
        f"the annotators {mean_rho:.2f} on average, {sum(reasons.values()):,} documents fail a format gate.",
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
                    for name, weight in zip(
                        label_set.names[label_set.chosen(config.score_labels)], weights, strict=True
                    )
                ],
            ),
            *_open_gate_sections(config.gates, label_set),
        ],
    )
    return outcome, records


def _open_gate_sections(gates: dict[str, int], label_set: LabelSet) -> list[Section]:
    absent = sorted(set(gates) - set(label_set.names))
    if not absent:
        return []
    return [
        Section(
            title="Gates without a label",
            text="The selected dimensions lack these labels, so their gates let everything pass.",
            table=[{"gate": name, "limit": gates[name]} for name in absent],
        )
    ]


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


def _spearman_rows(held: list[Example], labels_DL: NDArray[np.float64], label_set: LabelSet) -> list[dict[str, Any]]:
    targets = np.stack([example.labels for example in held])
    graded = np.array([example.graded for example in held])
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(label_set.names):
        kind = "content" if name in label_set.content else "format"
        row = {"label": name, "kind": kind, "spearman": _spearman(targets[:, index], labels_DL[:, index])}
        if name in GRADED_LABELS and graded.sum() >= 10:
            row["graded"] = _spearman(targets[graded, index], labels_DL[graded, index])
        rows.append(row)
    return rows


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return round(float(np.corrcoef(rankdata(first), rankdata(second))[0, 1]), 3)
