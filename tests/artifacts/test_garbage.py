import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from nanbeige_core.artifacts import pins
from nanbeige_core.artifacts.garbage import Survey, collect, collecting, survey
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.leases import hold_lease
from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest
from nanbeige_core.artifacts.store import Store
from tests.artifacts.making import draft, fill_layout


def key(letter: str) -> str:
    return letter * 64


def make(store: Store, stage: str, letter: str, *parents: Manifest, day: int = 1) -> Manifest:
    work = store.work_directory(stage, key(letter))
    fill_layout(work, Kind.CORPUS)
    inputs = {f"input{number}": parent.reference for number, parent in enumerate(parents)}
    made = draft(stage, key(letter), Kind.CORPUS).model_copy(
        update={"inputs": inputs, "started": f"2026-01-{day:02d}T00:00:00+00:00"}
    )
    return store.seal(work, made)


def look(store: Store, *, planned: dict[str, str] | None = None, newest: int = 0, age: float = 0) -> Survey:
    with collecting(store):
        return survey(store, planned or {}, newest=newest, age_seconds=age)


def gone(store: Store, **options: object) -> set[str]:
    """Collect and return the keys of deleted artifacts and work."""
    found = look(store, **options)  # type: ignore[arg-type]
    for item in found.garbage:
        assert collect(store, item) == ""
    return {item.key for item in found.garbage if item.what in ("artifact", "work")}


def test_a_survey_touches_nothing(store: Store) -> None:
    manifest = make(store, "a", "1")
    found = look(store)
    assert [item.key for item in found.garbage if item.what == "artifact"] == [manifest.reference.address]
    assert found.bytes >= manifest.bytes > 0
    assert store.find("a", key("1")) is not None


def test_what_a_kept_artifact_was_made_from_is_kept(store: Store) -> None:
    old = make(store, "a", "1", day=1)
    made = make(store, "b", "2", old, day=2)
    other = make(store, "a", "3", day=3)
    pins.pin(store, made)
    assert gone(store) == {other.reference.address}
    assert store.find("a", key("1")) is not None
    assert store.find("b", key("2")) is not None
    assert store.find("a", key("3")) is None


def test_the_newest_of_each_stage_are_kept(store: Store) -> None:
    made = [make(store, "a", letter, day=int(letter)) for letter in "123"]
    lone = make(store, "b", "4", day=1)
    assert gone(store, newest=2) == {made[0].reference.address}
    assert store.find("b", lone.fingerprint) is not None


def test_what_the_recipe_plans_and_what_has_an_alias_is_kept(store: Store) -> None:
    planned, named, rest = (make(store, "a", letter) for letter in "123")
    pins.set_alias(store, "best", named)
    assert gone(store, planned={planned.reference.address: "profile laptop plans it"}) == {rest.reference.address}


def test_the_reason_for_keeping_is_told(store: Store) -> None:
    parent = make(store, "a", "1")
    child = make(store, "b", "2", parent)
    pins.pin(store, child, "baseline")
    kept = look(store).kept
    assert kept[child.reference.address] == "pinned: baseline"
    assert kept[parent.reference.address] == f"{child.reference.address} was made from it"


def test_nothing_younger_than_the_age_goes(store: Store) -> None:
    old = make(store, "a", "1")  # in January
    os.utime(store.local_path(old) / MANIFEST_NAME, (1e9, 1e9))
    work = store.work_directory("b", key("2"))
    fill_layout(work, Kind.CORPUS)
    assert gone(store, age=3600) == {"a/1111111111111111"}
    assert work.exists()
    assert gone(store) == {"b/2222222222222222"}
    assert not work.exists()


def test_an_artifact_made_while_the_clock_was_behind_is_as_young_as_its_file(store: Store) -> None:
    made = make(store, "a", "1")
    assert made.started.startswith("2026-01-01")
    assert gone(store, age=3600) == set()


def test_half_done_work_that_the_recipe_plans_is_kept_at_any_age(store: Store) -> None:
    fill_layout(store.work_directory("b", key("2")), Kind.CORPUS)
    assert gone(store, planned={"b/2222222222222222": "profile laptop plans it"}) == set()


def test_what_half_done_work_reads_is_kept(store: Store) -> None:
    parent = make(store, "a", "1")
    control = store.work_directory("b", key("2")) / ".control"
    control.mkdir(parents=True)
    path = str(store.local_path(parent))
    (control / "job.json").write_text(json.dumps({"inputs": {"x": {"path": path, "fingerprint": parent.fingerprint}}}))
    assert look(store).kept == {"a/1111111111111111": "half-done b/2222222222222222 reads it"}


def test_an_artifact_and_work_under_a_running_stages_lock_are_left(store: Store) -> None:
    make(store, "a", "1")
    fill_layout(store.work_directory("b", key("2")), Kind.CORPUS)
    with store.lock("a", key("1")), store.lock("b", key("2")):
        found = look(store)
        assert [item.what for item in found.garbage] == []
        assert set(found.spared.values()) == {"a running stage holds it"}
    assert gone(store) == {"a/1111111111111111", "b/2222222222222222"}


def test_a_lock_taken_after_the_survey_still_protects(store: Store) -> None:
    make(store, "a", "1")
    with store.lock("a", key("1")):
        pass
    item = next(item for item in look(store).garbage if item.what == "artifact")
    with store.lock("a", key("1")):
        assert collect(store, item) == "a running stage holds it"
    assert store.find("a", key("1")) is not None


def test_a_running_flow_keeps_what_it_counts_on(store: Store) -> None:
    make(store, "a", "1")
    with hold_lease(store, ["a/1111111111111111"]):
        assert look(store).kept == {"a/1111111111111111": "a running flow counts on it"}
    assert look(store).kept == {}


def lease(root: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with hold_lease(Store(root / "store", root / "cache"), ["a/1111111111111111"]):
        ready.set()
        time.sleep(60)


def test_the_lease_of_a_killed_run_ends_with_it(store: Store, tmp_path: Path) -> None:
    make(store, "a", "1")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=lease, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    assert look(store).kept != {}
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert look(store).kept == {}
    assert not list(store.lock_directory.glob("*.lease*"))


def test_replaced_artifacts_stale_locks_and_prefects_records_go(store: Store) -> None:
    kept = make(store, "a", "1")
    make(store, "a", "1")
    (store.work_root / ".results/a").mkdir(parents=True)
    for name in ("1", "2"):
        (store.work_root / f".results/a/{name * 16}.json").write_text("{}")
    with store.lock("a", key("1")):
        pass
    pins.pin(store, kept)
    found = look(store)
    assert sorted((item.what, item.key.split(".")[0]) for item in found.garbage) == [
        ("lock", f"a-{'1' * 16}"),
        ("record", "a/2222222222222222"),
        ("replaced", "a/1111111111111111"),
    ]
    assert [collect(store, item) for item in found.garbage] == ["", "", ""]
    assert look(store).garbage == ()
    assert store.verify(kept) == []
    with store.lock("a", key("1")):
        pass


def test_a_collection_that_is_cut_short_leaves_no_half_artifact(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store, "a", "1")

    def fail(path: Path) -> None:
        raise OSError("device gone")

    with monkeypatch.context() as patched:
        patched.setattr("nanbeige_core.artifacts.garbage.shutil.rmtree", fail)
        item = next(item for item in look(store).garbage if item.what == "artifact")
        assert "device gone" in collect(store, item)
    assert store.look("a", key("1")).problem == "not there"
    assert store.manifests() == []
    assert [item.why for item in look(store).garbage if item.what == "replaced"] == ["a collection was cut short"]


def test_an_upload_that_was_cut_short_goes_when_it_is_old(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path}/store", tmp_path / "cache")
    store.filesystem.pipe_file(f"{store.root}/a/{'1' * 16}/documents/part-0.parquet", b"half")
    store.filesystem.pipe_file(f"{store.root}/runs/some-run/index.html", b"a report is no artifact")
    assert look(store, age=3600).garbage == ()
    (item,) = look(store).garbage
    assert (item.what, item.key, item.bytes) == ("unsealed", "a/1111111111111111", 4)
    with store.lock("a", key("1")):
        assert look(store).garbage == ()
    assert collect(store, item) == ""
    assert not store.filesystem.exists(f"{store.root}/a")
    assert store.filesystem.exists(f"{store.root}/runs/some-run/index.html")


def test_a_remote_store_is_collected_with_its_local_copies(tmp_path: Path) -> None:
    store = Store(f"memory://{tmp_path}/store", tmp_path / "cache")
    manifest = make(store, "a", "1")
    kept = make(store, "b", "2")
    copies = [store.local_path(manifest), store.local_path(kept)]
    pins.pin(store, kept)
    assert gone(store) == {"a/1111111111111111"}
    assert (copies[0].exists(), copies[1].exists()) == (False, True)
    assert [found.stage for found in store.manifests()] == ["b"]


def test_pages_of_old_runs_go_and_the_newest_and_the_latest_stay(store: Store) -> None:
    for day, run in enumerate(("oldest", "older", "newest", "latest")):
        page = Path(store.root) / "runs" / run / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text("a page")
        os.utime(page, (1e9 + day, 1e9 + day))
    (Path(store.root) / "runs/report-laptop.html").write_text("asked for by a person")
    with collecting(store):
        found = survey(store, {}, newest=0, age_seconds=0, pages=1)
    assert {(item.what, item.key, item.bytes) for item in found.garbage if item.what == "page"} == {
        ("page", "runs/oldest", 6),
        ("page", "runs/older", 6),
    }
    for item in found.garbage:
        assert collect(store, item) == ""
    left = {path.name for path in (Path(store.root) / "runs").iterdir()}
    assert left == {"newest", "latest", "report-laptop.html"}
