from pathlib import Path

import pytest

from nanbeige_core.cores import usable_cores


@pytest.mark.parametrize(("written", "cores"), [("max 100000", None), ("50000 100000", 1), ("nonsense", None)])
def test_a_container_gets_the_cores_of_its_quota(tmp_path: Path, written: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(written)
    assert usable_cores(tmp_path / "cpu.max") == (cores or usable_cores(tmp_path / "none"))
