"""What is adopted: a folder or file somebody has, recognised, checked, and told by its content alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanbeige_core.artifacts.manifest import digest_files, hash_file
from nanbeige_core.contract import Outcome
from nanbeige_core.errors import ArtifactError


class AdoptError(ArtifactError):
    """Report something that cannot stand in for a stage, why, and what would."""


@dataclass(frozen=True)
class Wanted:
    """For which stage something is adopted, and what it must fit."""

    stage: str
    tokenizer: Path | None
    """The recipe's tokenizer; None while there is none."""
    needs_training_state: bool = False
    """Whether the next stage goes on with optimizer and data position, not with weights alone."""


@dataclass(frozen=True)
class Source:
    """Something recognised and checked: what identifies it, and how it becomes an artifact's files."""

    format: str
    files: dict[str, Path]
    """Name -> file; names and contents are what the fingerprint covers."""
    write: Callable[[Path], Outcome]
    """Write the artifact's files into a work directory."""
    told: dict[str, Any] = field(default_factory=dict[str, Any])
    """What else is part of the identity, such as a corpus' category or a model's tokenizer."""

    def identity(self) -> dict[str, Any]:
        """Return what the fingerprint covers of the source: format, content digest, and what was told."""
        content = digest_files({name: hash_file(path) for name, path in self.files.items()})
        return {"format": self.format, "content": content, **self.told}
