from pathlib import Path

from nanbeige_core.verify.component import build_digest, compiled_guest
from nanbeige_core.verify.guest_worker import open_engine, run_program
from nanbeige_core.verify.sandbox import sandbox_level


def test_the_level_names_the_build_so_that_two_of_one_guest_are_told_apart(guest_cache: Path, tmp_path: Path) -> None:
    built = compiled_guest(guest_cache)
    assert f"build {build_digest(built)}:" in sandbox_level(guest_cache)
    (tmp_path / "other.cwasm").write_bytes(built.read_bytes()[:-1] + b"x")
    assert build_digest(tmp_path / "other.cwasm") != build_digest(built)


def test_every_build_of_the_guest_has_the_same_hash_seed(guest_cache: Path) -> None:
    engine = open_engine()
    engine.load(compiled_guest(guest_cache))
    program = {"style": "function", "source": "def f(x):\n    return hash(x)", "entry": "f", "inputs": ['["abc"]']}
    assert run_program(engine, {**program, "fuel": 10**9})["values"] == [["int", "0x2bc280b7"]]
