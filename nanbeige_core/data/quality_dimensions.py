"""Which quality dimensions become labels: annotate a sample with every candidate, keep twenty (report section 2).

The sample holds clean documents and copies with damage of known severity. What the labels must predict is what is known
without them: how much a copy is damaged, and the grades that a large model gave to programs. A part of the sample takes
no part in the choice and yields the reported figures.
"""

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from nanbeige_core.contract import Gain, Job, Outcome, Plot, Section
from nanbeige_core.data.annotators import GRADED_LABELS, LABELS
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.corruptions import CORRUPTIONS
from nanbeige_core.data.tables import read_table, take_rows, write_rows
from nanbeige_core.data.tagging.dimensions import Dimension, candidate_dimensions
from nanbeige_core.data.tagging.grading import GradeScale, weighted_kappa
from nanbeige_core.data.tagging.measures import measure_all
from nanbeige_core.data.tagging.selection import (
    Candidate,
    HeldOutFit,
    Task,
    rank_correlations,
    select_dimensions,
)
from nanbeige_core.data.tagging.served import ServedAnnotator
from nanbeige_core.recipe.configs.data import QualityDimensionsConfig
from nanbeige_core.report.counting import count_rows

CANDIDATE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "kind", "question", "reason", "overlaps_with")),
        ("order", pa.int32()),
        *((name, pa.float64()) for name in ("gain", "alone", "overlap")),
    ]
)
SAMPLE_COLUMNS = ("id", "text", "language", "provenance")
REFERENCE_DOCUMENTS = 2500
"""Documents the character model reads; none of them is annotated."""

GRADED_NEEDED = 100
"""Shipped grades from which they become something to predict."""

GRADED = {**GRADED_LABELS, "audience_fit": "clarity"}
"""Dimension -> grade of the same meaning in the provenance of graded programs."""


@dataclass(frozen=True)
class Annotated:
    """One document of the sample; `grades` are those of a large model, `parent` the number of its clean original."""

    id: str
    text: str
    language: str
    parent: int
    corruption: str = ""
    severity: float = 0.0
    grades: tuple[tuple[str, int], ...] = ()


def run(job: Job) -> Outcome:
    """Write the chosen dimensions, and the table of all candidates with what decided about each."""
    config: QualityDimensionsConfig = job.config
    dimensions = candidate_dimensions()
    sample, reference = draw_sample(job.inputs["corpus"].path / "documents", config)
    job.progress(0.1, f"annotating {len(sample)} documents with {len(dimensions)} dimensions")
    offline_DL = measure_sample(sample, reference, dimensions)
    unscored: Counter[str] = Counter()
    grades_DL = ask_served(job, sample, dimensions, unscored) if config.annotator else offline_DL
    scored = np.array([not np.isnan(row).any() for row in grades_DL])
    if scored.sum() < 2 * len(dimensions):
        raise ValueError(
            f"{config.annotator}: {int(scored.sum())} of {len(sample)} documents were scored ({dict(unscored)}); "
            f"{2 * len(dimensions)} or more are needed to compare {len(dimensions)} dimensions. Use another annotator, "
            "or raise attempts or max_new_tokens."
        )
    job.progress(0.8, "selecting")
    kept = [item for item, good in zip(sample, scored, strict=True) if good]
    candidates, held_out = choose(kept, grades_DL[scored], dimensions, config)
    _write(job, kept, grades_DL[scored], dimensions, candidates)
    agreement = _agreement(kept, grades_DL[scored], offline_DL[scored], dimensions, config)
    return _report(candidates, held_out, agreement, unscored, len(sample))


def draw_sample(documents: Path, config: QualityDimensionsConfig) -> tuple[list[Annotated], list[dict[str, Any]]]:
    """Return clean documents and damaged copies, and other documents for the language model.

    Raises ValueError when the corpus is too small to hold both.
    """
    ids: list[str] = read_table(documents, ["id"])["id"].to_pylist()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    source = random.Random(config.seed)
    source.shuffle(order)
    count = int(config.annotated_documents * (1 - config.corrupted_share))
    if len(order) < count + 100:
        raise ValueError(
            f"the corpus has {len(order)} documents; {count} are annotated and at least 100 others train the language "
            "model that measures them. Lower annotated_documents or ingest more."
        )
    clean = [
        Annotated(row["id"], row["text"], row["language"], number, grades=_grades_of(row))
        for number, row in enumerate(take_rows(documents, order[:count], SAMPLE_COLUMNS))
    ]
    damaged: list[Annotated] = []
    for number in range(config.annotated_documents - count):
        parent, other = clean[number % count], clean[(number * 7 + 1) % count]
        corruption, severity = CORRUPTIONS[number % len(CORRUPTIONS)], source.uniform(0.3, 1.0)
        text = corruption.apply(parent.text, severity, source, other.text)
        if text != parent.text:
            damaged.append(Annotated(parent.id, text, parent.language, parent.parent, corruption.name, severity))
    return clean + damaged, take_rows(documents, order[count : count + REFERENCE_DOCUMENTS], SAMPLE_COLUMNS)


def measure_sample(
    sample: list[Annotated], reference: list[dict[str, Any]], dimensions: tuple[Dimension, ...]
) -> NDArray[np.float64]:
    """Return the grades [D, L] that the offline measures give."""
    model = CharacterModel()
    for row in reference:
        model.learn(row["text"][:2000])
    names = [dimension.name for dimension in dimensions]
    measures_DL = np.array([measure_all(item.text, model.measure_bits(item.text[:2000]), names) for item in sample])
    clean = np.array([not item.corruption for item in sample])
    scale = GradeScale(measures_DL[clean], [item.language for item in sample if not item.corruption])
    return np.stack([scale.grade(row, item.language) for row, item in zip(measures_DL, sample, strict=True)])


def ask_served(
    job: Job, sample: list[Annotated], dimensions: tuple[Dimension, ...], unscored: Counter[str]
) -> NDArray[np.float64]:
    """Return the grades [D, L] of the served annotator; chunks that an interrupted run committed are read back."""
    from nanbeige_core.generate.engines import open_endpoint  # here: it imports torch, which measures do not need

    config: QualityDimensionsConfig = job.config
    engine = open_endpoint(config.annotator, job.runtime)
    grades: list[list[float]] = []
    try:
        for start in range(0, len(sample), config.chunk_documents):
            path = job.scratch / f"annotated-{start:06d}.json"
            if not path.exists():
                annotator = ServedAnnotator(
                    engine, dimensions, config.attempts, config.seed + start, config.max_new_tokens
                )
                found = annotator.annotate([item.text for item in sample[start : start + config.chunk_documents]])
                temporary = path.with_suffix(".part")
                temporary.write_text(json.dumps({"grades": found, "unscored": annotator.unscored}))
                temporary.replace(path)
            chunk = json.loads(path.read_text())
            grades += chunk["grades"]
            unscored.update(chunk["unscored"])
            job.progress(0.1 + 0.7 * len(grades) / len(sample), f"annotated {len(grades)} of {len(sample)}")
    finally:
        engine.close()
    return np.array(grades)


def choose(
    sample: list[Annotated],
    grades_DL: NDArray[np.float64],
    dimensions: tuple[Dimension, ...],
    config: QualityDimensionsConfig,
) -> tuple[list[Candidate], dict[str, float]]:
    """Return every candidate with its fate, and held-out R squared of sets of labels on documents kept apart."""
    parents = np.array([item.parent for item in sample])
    fold_D = np.random.default_rng(config.seed).permutation(parents.max() + 1)[parents]
    apart = fold_D < config.held_out_share * (parents.max() + 1)
    names, kinds = [item.name for item in dimensions], [item.kind for item in dimensions]
    tasks = _tasks(sample, grades_DL, np.where(apart, -1, fold_D % config.folds))
    candidates = select_dimensions(
        names,
        kinds,
        grades_DL[~apart],
        HeldOutFit([_rows(task, task.fold_D >= 0) for task in tasks]),
        quotas={"content": config.content_labels, "format": config.format_labels},
        overlap_limit=config.overlap_limit,
    )
    fit = HeldOutFit(tasks, folds=[-1])
    ordered = sorted((item for item in candidates if item.order), key=lambda item: item.order)
    chosen = [names.index(item.name) for item in ordered]
    held_out = {f"first {size} chosen": fit.score(chosen[:size]) for size in range(1, len(chosen) + 1)}
    held_out["content alone"] = fit.score([at for at in chosen if kinds[at] == "content"])
    held_out["format alone"] = fit.score([at for at in chosen if kinds[at] == "format"])
    held_out["all candidates"] = fit.score(range(len(names)))
    held_out["built-in labels"] = fit.score([names.index(name) for name in LABELS])
    held_out["chosen"] = fit.score(chosen)
    held_out["documents"] = float(apart.sum())
    return candidates, held_out


def _grades_of(row: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    grades: dict[str, int] = json.loads(row["provenance"]).get("grades", {})
    return tuple(sorted(grades.items()))


def _tasks(sample: list[Annotated], grades_DL: NDArray[np.float64], fold_D: NDArray[np.int64]) -> list[Task]:
    """Return what labels should predict: how much a copy is damaged, and the mean grade of a large model.

    A copy is compared with its own original, in both orders, so that what sets documents apart does not blur what
    damage does.
    """
    number = {item.parent: row for row, item in enumerate(sample) if not item.corruption}
    pairs = np.array(
        [(number[item.parent], row) for row, item in enumerate(sample) if item.corruption and item.parent in number]
    ).reshape(-1, 2)
    lost_DL = grades_DL[pairs[:, 0]] - grades_DL[pairs[:, 1]]
    severity = np.array([sample[row].severity for row in pairs[:, 1]])
    folds = fold_D[pairs[:, 0]]
    damage = Task(
        np.concatenate([lost_DL, -lost_DL]), np.concatenate([severity, -severity]), np.concatenate([folds, folds])
    )
    graded = np.array([row for row, item in enumerate(sample) if item.grades], np.int64)
    if len(graded) < GRADED_NEEDED:
        return [damage]
    mean_grade = np.array([float(np.mean([grade for _, grade in sample[row].grades])) for row in graded])
    return [damage, Task(grades_DL[graded], mean_grade, fold_D[graded])]


def _rows(task: Task, chosen_D: NDArray[np.bool_]) -> Task:
    return Task(task.labels_DL[chosen_D], task.target_D[chosen_D], task.fold_D[chosen_D])


def _write(
    job: Job,
    sample: list[Annotated],
    grades_DL: NDArray[np.float64],
    dimensions: tuple[Dimension, ...],
    candidates: list[Candidate],
) -> None:
    by_name = {dimension.name: dimension for dimension in dimensions}
    ordered = sorted((item for item in candidates if item.order), key=lambda item: item.order)
    chosen = {"labels": [by_name[item.name].model_dump() for item in ordered]}
    (job.work / "dimensions.json").write_text(json.dumps(chosen, indent=1, ensure_ascii=False) + "\n")
    table = (item._asdict() | {"question": by_name[item.name].question} for item in candidates)
    write_rows(job.work / "candidates.parquet", CANDIDATE_SCHEMA, table)
    names = [dimension.name for dimension in dimensions]
    labels = [(name, pa.float32()) for name in names]
    overlap = rank_correlations(grades_DL)
    rows = ({"name": name, **dict(zip(names, row, strict=True))} for name, row in zip(names, overlap, strict=True))
    write_rows(job.work / "overlap.parquet", pa.schema([("name", pa.string()), *labels]), rows)
    schema = pa.schema([("id", pa.string()), ("corruption", pa.string()), ("severity", pa.float64()), *labels])
    annotations = (
        {"id": item.id, "corruption": item.corruption, "severity": item.severity, **dict(zip(names, row, strict=True))}
        for item, row in zip(sample, grades_DL, strict=True)
    )
    write_rows(job.work / "annotations.parquet", schema, annotations)


def _agreement(
    sample: list[Annotated],
    grades_DL: NDArray[np.float64],
    offline_DL: NDArray[np.float64],
    dimensions: tuple[Dimension, ...],
    config: QualityDimensionsConfig,
) -> list[dict[str, Any]]:
    """Compare the annotator with the large model's grades of programs and, if it was served, with the measures."""
    names = [dimension.name for dimension in dimensions]
    own = config.annotator or "measures"
    rows: list[dict[str, Any]] = []
    graded = [(number, dict(item.grades)) for number, item in enumerate(sample) if item.grades]
    for name, grade in GRADED.items():
        pairs = [(grades_DL[number, names.index(name)], grades[grade]) for number, grades in graded if grade in grades]
        if len(pairs) >= 10:
            first, second = np.array(pairs, np.float64).T
            rows.append(_compare(name, own, f"shipped grade {grade}", first, second))
    if config.annotator:
        rows += [_compare(name, own, "measures", grades_DL[:, at], offline_DL[:, at]) for at, name in enumerate(names)]
    return rows


def _compare(
    name: str, own: str, other: str, first: NDArray[np.float64], second: NDArray[np.float64]
) -> dict[str, Any]:
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    spearman = 0.0 if constant else float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
    return {
        "dimension": name,
        "annotator": own,
        "other": other,
        "documents": len(first),
        "spearman": round(spearman, 3),
        "weighted_kappa": round(weighted_kappa(first, second), 3),
    }


def _report(
    candidates: list[Candidate],
    held_out: dict[str, float],
    agreement: list[dict[str, Any]],
    unscored: Counter[str],
    documents: int,
) -> Outcome:
    chosen = sorted((item for item in candidates if item.order), key=lambda item: item.order)
    curve = {name: score for name, score in held_out.items() if name.startswith("first ")}
    overlapping = sum(item.reason.startswith("overlaps") for item in candidates)
    sections = [
        Section(
            title="Chosen dimensions",
            text="In order of choice. `gain` is what the dimension added to the held-out R squared of those before it, "
            "`alone` what it reaches by itself, `overlap` its largest rank correlation with another chosen one.",
            table=[_row(item) for item in chosen],
            plot=Plot(
                kind="line",
                x=[float(size) for size in range(1, len(curve) + 1)],
                series={"documents kept apart": list(curve.values())},
                x_label="dimensions chosen",
                y_label="held-out R squared",
            ),
        ),
        Section(title="Candidates not chosen", table=[_row(item) for item in candidates if not item.order]),
        Section(
            title="What sets of dimensions predict",
            text="Held-out R squared on documents that took no part in the choice: how much a copy is "
            "damaged, and the grades of a large model where they were shipped.",
            table=[
                {"labels": name, "held_out_r2": round(held_out[name], 3)}
                for name in ("chosen", "built-in labels", "all candidates", "content alone", "format alone")
            ],
        ),
        Section(
            title="Annotator agreement",
            text="Spearman, and kappa with quadratic weights, of two annotators on the same documents.",
            table=agreement,
        ),
    ]
    if unscored:
        sections.append(Section(title="Unscored", table=count_rows(unscored, "reason", "documents")))
    return Outcome(
        summary=f"Chose {len(chosen)} of {len(candidates)} candidate dimensions; {overlapping} overlap a chosen one. "
        f"Held-out R squared {held_out['chosen']:.2f}, all candidates {held_out['all candidates']:.2f}.",
        counts={
            "candidates": len(candidates),
            "chosen": len(chosen),
            "overlapping": overlapping,
            "annotated": documents,
            "unscored": sum(unscored.values()),
            **{f"unscored_{reason}": count for reason, count in sorted(unscored.items())},
        },
        metrics={
            "held_out_r2": held_out["chosen"],
            "held_out_r2_builtin": held_out["built-in labels"],
            "held_out_r2_all": held_out["all candidates"],
        },
        gain=Gain(
            metric="held-out R squared of damage and shipped grades: the built-in twenty, the chosen ones",
            before=held_out["built-in labels"],
            after=held_out["chosen"],
            n=int(held_out["documents"]),
        ),
        sections=sections,
    )


def _row(item: Candidate) -> dict[str, Any]:
    row = item._asdict()
    rounded = {name: round(row[name], 3) for name in ("gain", "alone", "overlap")}
    return {"order": row.pop("order"), **row, **rounded}
