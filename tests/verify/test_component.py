from pathlib import Path

from nanbeige_core.verify.component import build_digest, compiled_guest
from nanbeige_core.verify.sandbox import sandbox_level


def test_the_level_names_the_build_so_that_two_of_one_guest_are_told_apart(guest_cache: Path, tmp_path: Path) -> None:
    built = compiled_guest(guest_cache)
    assert f"build {build_digest(built)}:" in sandbox_level(guest_cache)
    (tmp_path / "other.cwasm").write_bytes(built.read_bytes()[:-1] + b"x")
    assert build_digest(tmp_path / "other.cwasm") != build_digest(built)
