"""Adopt a folder that already holds the files of its type: an artifact of another store, or a copy of one."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from nanbeige_core.adopt.register import copy_files
from nanbeige_core.adopt.source import AdoptError, Source, Wanted
from nanbeige_core.adopt.tokenizer import require_same_vocabulary
from nanbeige_core.artifacts.kinds import LAYOUTS, Kind
from nanbeige_core.contract import Outcome
from nanbeige_core.data.ingest import CORPUS_SCHEMA

FORMAT = "files of its own type"
_REPORTS = ("report.md", "report.html")
_MODELS = (Kind.CHECKPOINT, Kind.REWARD_MODEL)


def fits(path: Path, kind: Kind) -> bool:
    """Tell whether a folder holds every file of a type; a corpus of another table is somebody's own."""
    if not all(any(path.glob(pattern)) for pattern in LAYOUTS[kind].required):
        return False
    if kind != Kind.CORPUS:
        return True
    return all(set(CORPUS_SCHEMA.names) <= set(pq.read_schema(file).names) for file in path.glob("documents/*.parquet"))


def recognise(path: Path, kind: Kind, wanted: Wanted) -> Source:
    """Return the folder as a source; a model must have the recipe's tokenizer, and its training state where needed.

    Raises AdoptError.
    """
    told = {"tokenizer": _check_model(path, wanted)} if kind in _MODELS else {}
    files = {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not _left_behind(file.relative_to(path))
    }

    def write(work: Path) -> Outcome:
        copy_files(files, work)
        return Outcome(summary=f"Adopted a {kind} of {len(files)} files.", counts={"files": len(files)})

    return Source(FORMAT, files, write, told)


def _left_behind(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts[:1]) or name.as_posix() in _REPORTS


def _check_model(path: Path, wanted: Wanted) -> str:
    try:
        card = json.loads((path / "model.json").read_text(encoding="utf-8"))
        found = (str(card["tokenizer_fingerprint"]), int(card["vocab_size"]))
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdoptError(
            f"{path}/model.json or state.json cannot be read ({error!r}): expected the ones a Checkpoint of this "
            "project holds."
        ) from error
    require_same_vocabulary(path, found, wanted)
    if wanted.needs_training_state and not ((path / "optimizer").is_dir() and "ledger" in state):
        raise AdoptError(
            f"{path} holds weights without optimizer/ and data position, but the phase after {wanted.stage} goes on "
            "with both: one learning-rate schedule runs through all four phases. Adopt it for fgwsd_decay, whose "
            "weights alone are used afterwards, or a checkpoint of this phase that was saved with its optimizer."
        )
    return found[0]
