"""The store's contract over a real S3 server."""

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanbeige_core.artifacts.garbage import collect, collecting, survey
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest
from nanbeige_core.artifacts.pins import list_aliases, list_pins, pin, remove_alias, set_alias, unpin
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError, RecipeError
from nanbeige_core.faults.object_storage import BUCKET, KEY, SECRET, ObjectStorage, rclone
from nanbeige_core.report.artifact_files import ArtifactFiles
from tests.artifacts.making import draft, fill_layout, seal

pytestmark = pytest.mark.skipif(rclone() is None, reason="rclone (the S3 server) is not installed")
FIRST, SECOND = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    made = ObjectStorage(tmp_path_factory.mktemp("s3"))
    with made.serving():
        yield made


@pytest.fixture
def remote(server: ObjectStorage, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(f"s3://{BUCKET}/{request.node.name}", tmp_path / "cache")


def objects(store: Store, manifest: Manifest) -> str:
    """Where an artifact's objects are, for a test that damages them."""
    return f"{store.root}/{manifest.reference.address}"


@contextmanager
def down(server: ObjectStorage) -> Generator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


def test_what_one_machine_seals_another_opens(remote: Store, tmp_path: Path) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    other = Store(remote.url, tmp_path / "other machine")
    found, path = other.open(manifest.reference)
    assert found == manifest
    assert (path / "documents/part-0.parquet").read_bytes().startswith(b"Corpus")
    assert [entry.digest for entry in other.manifests()] == [manifest.digest]
    assert other.resolve(f"ingest/{FIRST[:6]}").digest == manifest.digest
    assert other.verify(manifest) == []
    assert ArtifactFiles(other, manifest).has("documents/part-0.parquet")


def test_a_server_that_came_after_another_is_the_one_asked(tmp_path: Path, server: ObjectStorage) -> None:
    Store(f"s3://{BUCKET}/other", tmp_path / "before").check()
    later = ObjectStorage(tmp_path / "s3")
    with later.serving():
        seal(Store(f"s3://{BUCKET}/other", tmp_path / "cache"), "ingest", FIRST, Kind.CORPUS)
    assert list((later.folder / BUCKET / "other").rglob("*.parquet"))
    assert Store(f"s3://{BUCKET}/other", tmp_path / "after").look("ingest", FIRST).problem == "not there"


def test_objects_without_a_manifest_are_no_artifact(remote: Store) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    remote.filesystem.rm_file(f"{objects(remote, manifest)}/{MANIFEST_NAME}")
    assert remote.look("ingest", FIRST).problem == "not there"


def test_a_damaged_object_is_never_served(remote: Store, tmp_path: Path) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    path = f"{objects(remote, manifest)}/documents/part-0.parquet"
    content = remote.filesystem.cat_file(path)
    remote.filesystem.pipe_file(path, content[:-1] + b"!")
    other = Store(remote.url, tmp_path / "other")
    with pytest.raises(ArtifactError, match=r"part-0\.parquet.*another SHA-256.*nanbeige run --only ingest --force"):
        other.open(manifest.reference)
    assert not list((tmp_path / "other").rglob("*.parquet"))
    remote.filesystem.pipe_file(path, content[:-1])
    assert "bytes, the manifest says" in other.look("ingest", FIRST).problem


def test_a_resealed_artifact_leaves_no_object_of_the_one_before(remote: Store) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    stray = f"{objects(remote, manifest)}/documents/part-1.parquet"
    remote.filesystem.pipe_file(stray, b"of an upload cut short")
    assert seal(remote, "ingest", FIRST, Kind.CORPUS).digest == manifest.digest
    assert not remote.filesystem.exists(stray)


def test_pins_and_aliases_live_in_the_bucket(remote: Store, tmp_path: Path) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    pin(remote, manifest, "for the paper")
    set_alias(remote, "best", manifest)
    other = Store(remote.url, tmp_path / "other")
    assert [entry.note for entry in list_pins(other)] == ["for the paper"]
    assert other.resolve("@best").digest == manifest.digest
    unpin(other, manifest)
    remove_alias(other, "best")
    assert (list_pins(remote), list_aliases(remote)) == ([], [])


def test_a_collection_takes_what_nothing_needs_and_what_was_cut_short(remote: Store) -> None:
    kept, gone = (seal(remote, "ingest", key, Kind.CORPUS) for key in (FIRST, SECOND))
    pin(remote, kept)
    cut = f"{remote.root}/tokenizer/{FIRST[:16]}/tokenizer.json"
    remote.filesystem.pipe_file(cut, b"half")
    with collecting(remote):
        found = survey(remote, {}, newest=0, age_seconds=-10)
    assert {(item.what, item.key) for item in found.garbage} == {
        ("artifact", gone.reference.address),
        ("unsealed", f"tokenizer/{FIRST[:16]}"),
    }
    assert [collect(remote, item) for item in found.garbage] == ["", ""]
    assert [manifest.fingerprint for manifest in remote.manifests()] == [FIRST]
    assert not remote.filesystem.exists(cut)


def test_large_files_go_in_parts(remote: Store, tmp_path: Path) -> None:
    work = remote.work_directory("ingest", FIRST)
    fill_layout(work, Kind.CORPUS)
    with (work / "documents/part-0.parquet").open("r+b") as stream:
        stream.truncate(101 << 20)  # s3fs cuts what is larger than two parts of 50 MiB
    manifest = remote.seal(work, draft("ingest", FIRST, Kind.CORPUS))
    info = remote.filesystem.info(f"{remote.root}/{manifest.reference.address}/documents/part-0.parquet")
    assert info["size"] == 101 << 20
    assert Store(remote.url, tmp_path / "other").verify(manifest) == []


def test_a_server_that_dies_amid_an_upload_costs_nothing_but_the_upload(server: ObjectStorage, remote: Store) -> None:
    work = remote.work_directory("ingest", FIRST)
    fill_layout(work, Kind.CORPUS)
    (work / "scratch").mkdir()
    (work / "documents/part-0.parquet").write_bytes(os.urandom(4 << 20))
    server.kill()
    server.start(bytes_per_second=1 << 20)
    killer = threading.Timer(1.0, server.kill)
    killer.start()
    with pytest.raises(ArtifactError, match=r"publishing the artifact of ingest.*Finished work is kept.*same command"):
        remote.seal(work, draft("ingest", FIRST, Kind.CORPUS))
    killer.join()
    server.start()
    assert remote.find("ingest", FIRST) is None
    manifest = remote.publish_sealed("ingest", FIRST)
    assert manifest is not None
    assert remote.find("ingest", FIRST) == manifest
    assert not work.exists()


def test_sealed_work_that_was_changed_is_made_again(server: ObjectStorage, remote: Store) -> None:
    work = remote.work_directory("ingest", FIRST)
    fill_layout(work, Kind.CORPUS)
    with down(server), pytest.raises(ArtifactError):
        remote.seal(work, draft("ingest", FIRST, Kind.CORPUS))
    (work / "documents/part-0.parquet").write_bytes(b"changed")
    assert remote.publish_sealed("ingest", FIRST) is None
    assert remote.find("ingest", FIRST) is None


def test_an_unreachable_store_is_no_cache_miss_and_names_no_secret(server: ObjectStorage, remote: Store) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    with down(server), pytest.raises(ArtifactError, match=r"artifact of ingest.*can be reached") as caught:
        remote.open(manifest.reference)
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_wrong_credentials_are_no_cache_miss(remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-entirely")
    wrong = Store(f"{remote.url}-wrong", tmp_path)
    wrong.filesystem = type(wrong.filesystem)(use_listings_cache=False, skip_instance_cache=True)
    with pytest.raises(ArtifactError, match="credentials in the environment are valid") as caught:
        wrong.look("ingest", FIRST)
    assert "another-secret-entirely" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_told_before_anything_runs(server: ObjectStorage, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no bucket absent"):
        Store("s3://absent/recipe", tmp_path).check()


@pytest.mark.parametrize("url", ["s3://key:secretword@bucket/recipe", "abfs://c@a/x?sig_token=abcdefgh123"])
def test_credentials_in_a_url_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="carries credentials") as caught:
        Store(url, tmp_path)
    assert "secretword" not in str(caught.value)
    assert "abcdefgh123" not in str(caught.value)


def test_a_listing_that_lags_does_not_hide_an_artifact(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = seal(remote, "ingest", FIRST, Kind.CORPUS)
    monkeypatch.setattr(remote.filesystem, "find", lambda path, detail=False: {} if detail else [])
    assert remote.find("ingest", FIRST) == manifest
