import pytest
from pydantic import Field

from nanbeige_core.recipe.configs.base import IdentityConfig
from nanbeige_core.recipe.reference import reference_markdown, source_mark, unit_of
from nanbeige_core.stages import STAGES


def test_every_value_of_every_stage_is_in_the_reference() -> None:
    page = reference_markdown()
    for spec in STAGES.values():
        assert f"\n### {spec.uses}\n" in page
        for name in spec.config_class().model_fields:
            assert f"| `{name}` |" in page, f"{spec.uses}.{name}"


def test_a_value_without_a_source_is_refused() -> None:
    class Unmarked(IdentityConfig):
        width: int = Field(1, description="Width of the thing.")

    with pytest.raises(ValueError, match=r"Unmarked\.width.*ends with its source"):
        source_mark("Unmarked.width", Unmarked.model_fields["width"])


def test_meaning_and_source_are_told_apart() -> None:
    class Marked(IdentityConfig):
        a: int = Field(1, description="Weight of L_dpo. paper: the plain sum")
        b: int = Field(1, description="What papers ours cite. ours (DAPO)")

    fields = Marked.model_fields
    assert source_mark("a", fields["a"]) == ("Weight of L_dpo.", "paper: the plain sum")
    assert source_mark("b", fields["b"]) == ("What papers ours cite.", "ours (DAPO)")


def test_bounds_units_and_defaults_come_from_the_model() -> None:
    row = next(line for line in reference_markdown().splitlines() if line.startswith("| `jaccard`"))
    assert row.split("|")[2:7] == [" number ", " `0.8` ", " > 0, <= 1 ", "  ", " ours "]
    assert unit_of("sft_sequence_length") == "tokens"
    assert unit_of("checkpoint_seconds") == "seconds"
