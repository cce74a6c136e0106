"""What the student learns from: clean documents with labels, and copies with damage of known severity."""

import json
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from nanbeige_core.data.annotators import CONTENT_MEASURES, GRADED_LABELS, measure_format
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.corruptions import CORRUPTIONS
from nanbeige_core.data.tagging.grading import GradeScale
from nanbeige_core.data.tagging.label_set import BUILT_IN, LabelSet
from nanbeige_core.data.tagging.measures import measure_all
from nanbeige_core.recipe.configs.data import QualityTaggingConfig


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


def build_examples(
    sample: list[dict[str, Any]], model: CharacterModel, config: QualityTaggingConfig, label_set: LabelSet = BUILT_IN
) -> list[Example]:
    """Annotate clean documents and derive damaged copies; one copy for a `corrupted_share` of the result."""
    source = random.Random(config.seed)
    clean, scale = _annotate_clean(sample, model, config, label_set)
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
            factors = np.array([1 - severity * corruption.effects.get(name, 0.0) for name in label_set.names])
            labels = parent.labels * factors
            if label_set.selected:
                # a selected dimension may be one of which the corruptions say nothing: there the copy is measured
                measured = scale.grade(_measure(text, model, label_set), parent.language)
                labels = np.where(factors < 1, labels, np.minimum(labels, measured))
            damaged.append(
                Example(text, parent.language, labels, severity, corruption.name, False, parent.held_out, origin)
            )
    return clean + damaged


def _annotate_clean(
    sample: list[dict[str, Any]], model: CharacterModel, config: QualityTaggingConfig, label_set: LabelSet
) -> tuple[list[Example], GradeScale]:
    """Return the clean documents with their labels, and the scale on which damaged copies are graded."""
    languages = [row["language"] for row in sample]
    if label_set.selected:
        raw = np.stack([_measure(row["text"], model, label_set) for row in sample])
    else:
        bits = [model.measure_bits(row["text"][:2000]) for row in sample]
        raw = np.array(
            [
                [CONTENT_MEASURES[name](row["text"], bit) for name in label_set.content]
                for row, bit in zip(sample, bits, strict=True)
            ]
        )
    ranked = np.zeros_like(raw)
    for language in sorted(set(languages)):
        chosen = np.array(languages) == language
        ranked[chosen] = (rankdata(raw[chosen], axis=0) - 0.5) / chosen.sum() * 9.0
    held_out = int(len(sample) * config.held_out_share)
    examples: list[Example] = []
    for index, row in enumerate(sample):
        grades: dict[str, int] = json.loads(row["provenance"]).get("grades", {})
        shape = measure_format(row["text"], row["language"])
        labels = [_label(name, place, ranked[index], grades, shape) for place, name in enumerate(label_set.names)]
        examples.append(
            Example(
                row["text"],
                row["language"],
                np.array(labels),
                0.0,
                "",
                bool(grades),
                held_out=index < held_out,
                id=row["id"],
            )
        )
    return examples, GradeScale(raw, languages)


def _label(
    name: str, place: int, ranked: NDArray[np.float64], grades: dict[str, int], shape: dict[str, float]
) -> float:
    """Return a label: a large model's grade, an absolute measure of format where there is one, else the rank."""
    if GRADED_LABELS.get(name) in grades:
        return min(9.0, float(grades[GRADED_LABELS[name]]))
    return shape[name] if name in shape else float(ranked[place])


def _measure(text: str, model: CharacterModel, label_set: LabelSet) -> NDArray[np.float64]:
    return np.array(measure_all(text, model.measure_bits(text[:2000]), list(label_set.names)))
