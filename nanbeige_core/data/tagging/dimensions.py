"""The candidate dimensions, read from data: name, content or format, question, and what 0 and 9 mean."""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

DimensionKind = Literal["content", "format"]


class Dimension(BaseModel):
    """One quality dimension as an annotator is asked about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z_]+$")
    kind: DimensionKind
    question: str = Field(min_length=1)
    low: str = Field(min_length=1, description="What 0 means.")
    high: str = Field(min_length=1, description="What 9 means.")


@cache
def candidate_dimensions() -> tuple[Dimension, ...]:
    """Return every candidate in the order of the file; raises ValueError when a name is there twice."""
    raw = yaml.safe_load(Path(__file__).with_name("dimensions.yaml").read_text("utf-8"))
    found = TypeAdapter(tuple[Dimension, ...]).validate_python(raw["dimensions"])
    names = [dimension.name for dimension in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"dimensions.yaml holds {', '.join(twice)} twice; a label needs one meaning.")
    return found
