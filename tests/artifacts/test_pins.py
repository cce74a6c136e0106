import pytest

from nanbeige_core.artifacts import pins
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError, RecipeError
from tests.artifacts.making import seal

KEY = "a" * 64


@pytest.fixture(params=["local", "memory"])
def either(request: pytest.FixtureRequest, tmp_path: object) -> Store:
    url = f"{tmp_path}/store" if request.param == "local" else f"memory://{tmp_path}/store"
    return Store(url, tmp_path / "cache")  # type: ignore[operator]


def test_a_pin_is_listed_with_its_note_until_it_is_removed(either: Store) -> None:
    manifest = seal(either, "ingest", KEY, Kind.CORPUS)
    pins.pin(either, manifest, "the corpus of the talk")
    assert [(entry.address, entry.note) for entry in pins.list_pins(either)] == [
        (manifest.reference.address, "the corpus of the talk")
    ]
    pins.unpin(either, manifest)
    assert pins.list_pins(either) == []
    with pytest.raises(ArtifactError, match="is not pinned"):
        pins.unpin(either, manifest)


def test_an_alias_stands_for_its_artifact_and_can_move(either: Store) -> None:
    first = seal(either, "ingest", KEY, Kind.CORPUS)
    second = seal(either, "ingest", "b" * 64, Kind.CORPUS)
    pins.set_alias(either, "@best", first)
    assert either.resolve("@best").fingerprint == first.fingerprint
    pins.set_alias(either, "best", second)
    assert either.resolve("@best").fingerprint == second.fingerprint
    pins.remove_alias(either, "best")
    with pytest.raises(ArtifactError, match="no alias @best"):
        either.resolve("@best")


def test_an_alias_that_no_path_can_carry_is_refused(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    for name in ("../up", "a/b", "", "-x"):
        with pytest.raises(RecipeError, match="letters, digits"):
            pins.set_alias(store, name, manifest)


def test_an_unreadable_pin_stops_whoever_asks_what_is_kept(store: Store) -> None:
    manifest = seal(store, "ingest", KEY, Kind.CORPUS)
    pins.pin(store, manifest)
    path = next((store.work_root / ".pins").iterdir())
    path.write_text("{")
    with pytest.raises(ArtifactError, match="nothing may be collected"):
        pins.list_pins(store)
