"""One finding of the doctor."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do about it.

    `problem`: the laptop profile cannot run; `note`: it runs, but something a person may want is missing.
    """

    subject: str
    level: Level
    found: str
    remedy: str = ""
