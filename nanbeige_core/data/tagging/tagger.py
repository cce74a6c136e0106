"""The tagger at work: every label of every document in one pass, file by file, on all cores."""

import functools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanbeige_core.contract import Job
from nanbeige_core.cores import usable_cores
from nanbeige_core.data.annotators import LABELS
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.executors import LocalPool, ProcessPool, Result, run_phase
from nanbeige_core.data.ingest import CORPUS_SCHEMA
from nanbeige_core.data.student import Student, featurise, predict_labels
from nanbeige_core.data.tables import read_rows, table_files, write_rows
from nanbeige_core.data.tagging.label_set import LabelSet
from nanbeige_core.recipe.configs.data import QualityTaggingConfig

FILES_PER_PROCESS = 4
"""Fewer files than this are tagged faster than another process starts."""

FILES_BETWEEN_NEWS = 8
"""Files of each process between two reports of progress; the processes start anew after them."""


def tagged_schema(labels: LabelSet) -> pa.Schema:
    """Return the columns of a tagged document: those of the corpus, the labels, the score and the gate."""
    scores = [*((name, pa.float32()) for name in labels.names), ("tag_score", pa.float32()), ("gate", pa.string())]
    return pa.schema([*CORPUS_SCHEMA, *scores])


@dataclass(frozen=True)
class Tagger:
    """What turns a text into labels and a score."""

    model: CharacterModel
    student: Student
    weights: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write the tagger for the processes that use it."""
        temporary = path.with_name(f".{path.name}.part.npz")
        tables = {"counts": self.model.counts, "contexts": self.model.contexts}
        np.savez(temporary, weights=self.weights, **tables, **vars(self.student))
        os.replace(temporary, path)

    @staticmethod
    @functools.lru_cache(maxsize=1)
    def load(path: Path) -> "Tagger":
        """Read a tagger that `save` wrote; a process reads it once."""
        with np.load(path) as stored:
            model = CharacterModel()
            model.counts, model.contexts = stored["counts"], stored["contexts"]
            student = Student(
                **{name: stored[name] for name in ("weights_FL", "intercept_L", "centre", "scale")},
                buckets=int(stored["buckets"]),
            )
            return Tagger(model, student, stored["weights"])


@dataclass(frozen=True)
class TagTask:
    """One file of documents to tag, and where the tagged ones go."""

    source: Path
    target: Path
    tagger: Path
    config: QualityTaggingConfig
    label_set: LabelSet


def tag_pool(
    job: Job, folder: Path, tagger: Tagger, config: QualityTaggingConfig, label_set: LabelSet
) -> dict[str, int]:
    """Write one tagged file per input file and return how many documents each gate stops; finished files are kept."""
    stored = job.scratch / "tagger.npz"
    if not stored.exists():
        tagger.save(stored)
    files = table_files(folder)
    tasks = [TagTask(file, job.work / "documents" / file.name, stored, config, label_set) for file in files]
    workers = min(usable_cores(), len(files) // FILES_PER_PROCESS)
    executor = ProcessPool(workers) if workers > 1 else LocalPool(1)
    step = FILES_BETWEEN_NEWS * workers if workers > 1 else 1
    gated: Counter[str] = Counter()
    for first in range(0, len(tasks), step):
        for found in run_phase(executor, job.scratch / f"tagged-{first:06d}", tag_file, tasks[first : first + step]):
            gated.update(found)
        done = min(first + step, len(tasks))
        job.progress(0.5 + 0.5 * done / len(tasks), f"tagged file {done} of {len(tasks)}")
    return dict(gated)


def tag_file(task: TagTask) -> Result:
    """Tag one file and return how many documents each gate stops; the empty gate passes."""
    tagger, config, names = Tagger.load(task.tagger), task.config, task.label_set.names
    rows = list(read_rows(task.source, columns=CORPUS_SCHEMA.names))
    features = featurise([row["text"] for row in rows], tagger.model, config.hash_buckets, config.feature_characters)
    labels_DL = predict_labels(tagger.student, *features)
    scores = score_labels(labels_DL, tagger.weights, task.label_set.chosen(config.score_labels))
    for row, labels, score in zip(rows, labels_DL, scores, strict=True):
        row.update(zip(names, map(float, labels), strict=True))
        row.update(tag_score=float(score), gate=find_gate(labels, config.gates, names))
    write_rows(task.target, tagged_schema(task.label_set), rows)
    return dict(Counter(row["gate"] for row in rows))


def score_labels(labels_DL: NDArray[np.float64], weights: NDArray[np.float64], chosen: slice) -> NDArray[np.float64]:
    """Return the tag score on the 0-9 scale from the chosen labels."""
    return np.clip(labels_DL[:, chosen] @ weights, 0.0, 9.0)


def find_gate(labels: NDArray[np.float64], gates: dict[str, int], names: tuple[str, ...] = LABELS) -> str:
    """Return the format label that fails worst as `name<limit`, or an empty string; gates beyond `names` are open."""
    failed = [
        (labels[names.index(name)] - limit, f"{name}<{limit}")
        for name, limit in sorted(gates.items())
        if name in names and labels[names.index(name)] < limit
    ]
    return min(failed)[1] if failed else ""
