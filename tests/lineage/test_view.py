from pathlib import Path

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.lineage.view import Lineage
from tests.artifacts.making import draft

LONG = 1500
"""Artifacts in one chain: more than Python nests calls."""


def test_inputs_come_first_in_a_long_chain_whatever_the_clocks_say(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "cache")
    before: Manifest | None = None
    for number in range(LONG):
        made = draft("chain", f"{number:016x}".ljust(64, "0"), Kind.CORPUS).model_copy(
            update={
                "inputs": {"corpus": before.reference} if before else {},
                "started": f"2026-01-01T00:00:00.{LONG - number:06d}+00:00",  # each before what it was made from
            }
        )
        folder = Path(store.root) / made.address
        folder.mkdir(parents=True)
        (folder / MANIFEST_NAME).write_text(made.model_dump_json())
        before = made
    lineage = Lineage(store)
    assert [int(view.key[1][:16], 16) for view in lineage.ordered] == list(range(LONG))
    assert len(lineage.ancestors(lineage.ordered[-1])) == LONG - 1
