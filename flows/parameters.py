"""What a person can choose in the run form: enums read from `pipelines.yaml`, so that the form lists what exists."""

from enum import Enum
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECIPE_FILE = ROOT / "pipelines.yaml"
ALL = "(all)"

_TREE = yaml.safe_load(RECIPE_FILE.read_text(encoding="utf-8"))


def _choices(title: str, names: list[str]) -> type[Enum]:
    return Enum(title, {name: name for name in names}, type=str)  # type: ignore[return-value]


Profile = _choices("Profile", list(_TREE["profiles"]))
Stage = _choices("Stage", [ALL, *_TREE["stages"]])
Sweep = _choices("Sweep", list(_TREE.get("sweeps") or {"none": None}))


def stage_or_none(choice: str | Enum) -> str | None:
    """Return a stage name, or None for the sentinel that means the whole recipe."""
    name = choice.value if isinstance(choice, Enum) else choice
    return None if name == ALL else name
