"""The store under any sequence of making, replacing and damaging: what is whole is served, and nothing else."""

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME
from nanbeige_core.artifacts.references import address
from nanbeige_core.artifacts.store import Store
from tests.artifacts.making import draft, fill_layout

PAYLOAD = "documents/payload.bin"
KEYS = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([letter * 64 for letter in "12"]))
Key = tuple[str, str]


class Stores(RuleBasedStateMachine):
    """A store, and what it must serve: the payload of every key that is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "store", self.folder / "cache")
        self.reader = Store(self.store.url, self.folder / "reader")
        self.whole: dict[Key, bytes] = {}
        self.flipped: set[Key] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def path(self, key: Key) -> Path:
        return Path(self.store.root) / address(*key)

    @rule(key=KEYS, payload=st.binary(min_size=1, max_size=20))
    def make(self, key: Key, payload: bytes) -> None:
        work = self.store.work_directory(*key)
        fill_layout(work, Kind.CORPUS)
        (work / PAYLOAD).write_bytes(payload)
        manifest = self.store.seal(work, draft(*key, Kind.CORPUS))
        assert self.store.open(manifest.reference)[0] == manifest
        self.whole[key] = payload
        self.flipped.discard(key)

    @rule(key=KEYS)
    def stop_half_way(self, key: Key) -> None:
        fill_layout(self.store.work_directory(*key), Kind.CORPUS)
        assert self.store.has_work(*key)

    @rule(key=KEYS, name=st.sampled_from([PAYLOAD, MANIFEST_NAME]), room=st.floats(0, 0.99))
    def truncate(self, key: Key, name: str, room: float) -> None:
        path = self.path(key) / name
        if path.exists() and path.stat().st_size:
            os.truncate(path, int(room * path.stat().st_size))
            self.whole.pop(key, None)

    @rule(key=KEYS, name=st.sampled_from([PAYLOAD, MANIFEST_NAME]))
    def remove(self, key: Key, name: str) -> None:
        (self.path(key) / name).unlink(missing_ok=True)
        self.whole.pop(key, None)

    @rule(key=KEYS)
    def flip(self, key: Key) -> None:
        if key in self.whole and key not in self.flipped:
            content = bytes([self.whole[key][0] ^ 1]) + self.whole[key][1:]
            (self.path(key) / PAYLOAD).write_bytes(content)
            self.whole[key] = content
            self.flipped.add(key)

    @invariant()
    def what_is_whole_is_served_and_nothing_else(self) -> None:
        for stage in "ab":
            for key in ((stage, letter * 64) for letter in "12"):
                manifest = self.reader.find(*key)
                assert (manifest is not None) == (key in self.whole)
                if manifest is None:
                    continue
                served, folder = self.reader.open(manifest.reference)
                assert (folder / PAYLOAD).read_bytes() == self.whole[key]
                assert self.reader.verify(served) == ([PAYLOAD] if key in self.flipped else [])

    @invariant()
    def what_is_served_is_listed(self) -> None:
        listed = {(manifest.stage, manifest.fingerprint) for manifest in self.reader.manifests()}
        assert set(self.whole) <= listed
        assert not list(Path(self.store.root).rglob("*.part"))


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
