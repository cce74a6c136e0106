"""What a person gives a flow: names in the recipe file, and overrides as lines."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE_FILE = ROOT / "pipelines.yaml"
ALL = "(all)"


def stage_or_none(choice: str) -> str | None:
    """Return a stage name, or None for the sentinel that means the whole recipe."""
    return None if choice in (ALL, "") else choice


def override_lines(overrides: str | list[str], seed: int | None = None) -> list[str]:
    """Return overrides one by one, from a text with one per line or from a list; a seed becomes the last of them."""
    lines = overrides.splitlines() if isinstance(overrides, str) else overrides
    given = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return given if seed is None else [*given, f"shared.seed={seed}"]
