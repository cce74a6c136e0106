import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import fsspec
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME
from nanbeige_core.artifacts.references import CheckpointRef, CorpusRef, parse_reference
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError
from tests.artifacts.making import draft, fill_layout, seal

KEY = "a" * 64


def test_a_sealed_artifact_is_found_and_opened(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    found, path = store.open(manifest.reference)
    assert (found.digest, path.name) == (manifest.digest, KEY[:16])


def test_a_directory_without_a_manifest_is_not_an_artifact(store: Store) -> None:
    path = Path(store.root) / "ingest" / KEY[:16]
    fill_layout(path, Kind.CORPUS)
    assert store.find("ingest", KEY) is None


def test_a_half_written_manifest_is_not_an_artifact(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    path = Path(store.root) / manifest.reference.address / MANIFEST_NAME
    path.write_text(path.read_text()[:200])
    assert "cannot be read" in store.look("ingest", KEY).problem


def test_a_missing_file_is_noticed(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    (Path(store.root) / manifest.reference.address / "documents/part-0.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"documents/part-0\.parquet is missing.*nanbeige run --only ingest"):
        store.open(manifest.reference)


def test_a_changed_byte_is_found_by_verify(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    path = Path(store.root) / manifest.reference.address / "documents/part-0.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert store.verify(manifest) == ["documents/part-0.parquet"]


def test_an_artifact_of_the_wrong_layout_is_never_sealed(store: Store) -> None:
    work = store.work_directory("ingest", KEY)
    work.mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"without documents/\*\.parquet"):
        store.seal(work, draft("ingest", KEY, Kind.CORPUS))
    assert store.find("ingest", KEY) is None
    assert work.exists()


def test_scratch_and_control_files_are_not_sealed(store: Store) -> None:
    work = store.work_directory("ingest", KEY)
    fill_layout(work, Kind.CORPUS)
    for name in ("scratch", ".control"):
        (work / name).mkdir()
        (work / name / "file").write_text("resume state")
    manifest = store.seal(work, draft("ingest", KEY, Kind.CORPUS))
    assert sorted(manifest.files) == ["documents/part-0.parquet"]
    assert not (Path(store.root) / manifest.reference.address / "scratch").exists()


def test_a_full_disk_is_explained_and_keeps_the_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work = store.work_directory("ingest", KEY)
    fill_layout(work, Kind.CORPUS)

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nanbeige_core.artifacts.store._write_durably", full)
    with pytest.raises(ArtifactError, match="disk is full"):
        store.seal(work, draft("ingest", KEY, Kind.CORPUS))
    assert store.find("ingest", KEY) is None
    assert (work / "documents/part-0.parquet").exists()


def test_a_reference_of_another_type_is_refused(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    wrong = CheckpointRef(stage="ingest", fingerprint=KEY, digest=manifest.digest)
    with pytest.raises(ArtifactError, match="is a Corpus.*expects a Checkpoint"):
        store.open(wrong)


def test_references_survive_a_round_trip_as_their_own_class() -> None:
    reference = CorpusRef(stage="ingest", fingerprint=KEY, digest="b" * 64)
    assert type(parse_reference(reference.model_dump(mode="json"))) is CorpusRef


def test_a_remote_store_serves_what_was_sealed(tmp_path: Path) -> None:
    remote = Store("memory://bucket/store", tmp_path)
    manifest = seal(remote, "ingest", KEY, Kind.CORPUS)
    _, path = Store("memory://bucket/store", tmp_path / "other").open(manifest.reference)
    assert (path / "documents/part-0.parquet").read_bytes().startswith(b"Corpus")
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_resealing_replaces_the_artifact(store: Store) -> None:
    seal(store, "ingest", KEY, Kind.CORPUS)
    assert seal(store, "ingest", KEY, Kind.CORPUS).digest == store.find("ingest", KEY).digest  # type: ignore[union-attr]


def test_artifacts_are_resolved_by_stage_and_prefix(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    assert store.resolve("ingest").digest == manifest.digest
    assert store.resolve(f"ingest/{KEY[:6]}").digest == manifest.digest
    with pytest.raises(ArtifactError, match="nanbeige ls"):
        store.resolve("nothing")


def hold(root: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with Store(root / "store", root / "cache").lock("ingest", KEY):
        ready.set()
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    start = time.monotonic()
    with Store(tmp_path / "store", tmp_path / "cache").lock("ingest", KEY):
        assert time.monotonic() - start < 10
    holder.join()
