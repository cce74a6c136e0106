import subprocess
import sys

import pytest

from nanbeige_core.resident import peak_resident_bytes

MEGABYTE = 1 << 20


def test_what_was_held_and_freed_counts() -> None:
    before = peak_resident_bytes()
    held = b"\x01" * (before + 64 * MEGABYTE)
    del held
    assert peak_resident_bytes() >= before + 64 * MEGABYTE


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's file of sizes is Linux's")
def test_a_child_does_not_begin_with_what_its_parent_held() -> None:
    child = "from nanbeige_core.resident import peak_resident_bytes; print(peak_resident_bytes())"
    start = f"subprocess.run([sys.executable, '-c', {child!r}])"
    parent = f"import subprocess, sys; held = b'1' * {400 * MEGABYTE}; {start}"
    printed = subprocess.run([sys.executable, "-c", parent], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(printed) < 200 * MEGABYTE
