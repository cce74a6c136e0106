"""The labels of one tagging: the built-in twenty, or those that a QualityDimensions artifact names."""

import json
from dataclasses import dataclass
from pathlib import Path

from nanbeige_core.data.annotators import CONTENT_LABELS, FORMAT_LABELS
from nanbeige_core.data.tagging.measures import MEASURES


@dataclass(frozen=True)
class LabelSet:
    """Names of the labels, content first."""

    content: tuple[str, ...]
    format: tuple[str, ...]
    selected: bool = False
    """Whether a selection chose them; then every label has a measure of its own."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return every label in the order of the columns."""
        return self.content + self.format

    def chosen(self, which: str) -> slice:
        """Return where the labels that make up the tag score lie: content, format, or all."""
        border = len(self.content)
        return {"content": slice(0, border), "format": slice(border, len(self.names))}.get(which, slice(0, None))


BUILT_IN = LabelSet(CONTENT_LABELS, FORMAT_LABELS)


def read_label_set(folder: Path) -> LabelSet:
    """Return the labels of a QualityDimensions artifact.

    Raises ValueError when one of them has no offline measure, which the student learns from.
    """
    labels = json.loads((folder / "dimensions.json").read_text("utf-8"))["labels"]
    unknown = sorted(label["name"] for label in labels if label["name"] not in MEASURES)
    if unknown:
        raise ValueError(
            f"{folder}: no measure is known for {', '.join(unknown)}; it was selected by another version. Run "
            "quality_dimensions again."
        )
    by_kind = {
        kind: tuple(label["name"] for label in labels if label["kind"] == kind) for kind in ("content", "format")
    }
    return LabelSet(by_kind["content"], by_kind["format"], selected=True)
