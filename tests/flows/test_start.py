"""What every command pays before it does anything."""

import subprocess
import sys

from flows.parameters import ROOT

HEAVY = ("numpy", "scipy", "pyarrow", "pandas", "torch", "transformers", "matplotlib", "prefect", "playwright", "lance")


def test_the_command_starts_without_the_libraries_that_only_stages_and_reports_need() -> None:
    code = f"import sys, flows.cli; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
