import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from nanbeige_core.data.fetch import FetchError, fetch_debian, fetch_wheel, read_archive, sha256_of


def wheel(folder: Path) -> Path:
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/rows.txt", "one\n")
    return path


def test_a_cached_wheel_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wheel(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("asked the network"))
    assert fetch_wheel("tiny-data", "1.0", sha256_of(path), tmp_path) == path


def test_a_wheel_with_another_checksum_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path)
    with pytest.raises(FetchError, match="expected 0000"):
        fetch_wheel("tiny-data", "1.0", "0" * 64, tmp_path)


def test_a_cached_version_is_not_taken_for_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "tiny_data-1.0.5-py3-none-any.whl").write_bytes(b"")
    from nanbeige_core.data.fetch import _cached_release

    assert _cached_release("tiny-data", "1.0", tmp_path) is None


def test_an_archive_yields_its_members(tmp_path: Path) -> None:
    assert list(read_archive(wheel(tmp_path))) == [("tiny_data/rows.txt", b"one\n")]


def test_an_sdist_yields_its_members(tmp_path: Path) -> None:
    path = tmp_path / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("tiny/rows.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"one"))
    assert list(read_archive(path)) == [("tiny/rows.txt", b"one")]


def test_a_machine_without_apt_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_debian("fortunes-zh", tmp_path) is None


def test_a_damaged_cached_debian_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x_1.deb").write_bytes(b"damaged")
    (tmp_path / "x.json").write_text('{"package": "x", "version": "1", "file": "x_1.deb", "sha256": "00"}')
    with pytest.raises(FetchError, match="Delete it"):
        fetch_debian("x", tmp_path)
