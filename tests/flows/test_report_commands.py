import subprocess
import sys
from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store
from tests.conftest import ROOT
from tests.report.building import partial_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reported")
    partial_run(Store(root / "store", root / "store/.cache"))
    return root


def nanbeige(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.cli", *arguments, "--file", str(ROOT / "pipelines.yaml")]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_a_report_is_made_without_a_run(folder: Path) -> None:
    done = nanbeige("report", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "8 of 29 stages" in done.stdout
    assert "Dual Preference Distillation" in (folder / "store/runs/report-laptop.html").read_text()


def test_an_empty_store_is_told_what_to_run(tmp_path: Path) -> None:
    done = nanbeige("report", cwd=tmp_path)
    assert done.returncode == 2
    assert "nanbeige run --profile laptop" in done.stderr


def test_the_plan_draws_its_schedule(tmp_path: Path) -> None:
    done = nanbeige("plan", "--profile", "nanbeige4-3b", "--plot", str(tmp_path / "plots/plan.svg"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "plots/plan.svg").read_text()


def test_a_plot_of_an_unknown_form_is_refused(tmp_path: Path) -> None:
    done = nanbeige("plan", "--plot", "plan.docx", cwd=tmp_path)
    assert done.returncode == 2
    assert ".svg, .png, .pdf" in done.stderr


def test_show_inspects_a_data_artifact_in_terminal_and_page(folder: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "flows.cli", "show", "pass_rates_stem", "--examples", "1"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "Outcomes by reason" in shown.stdout
    page = folder / "pages/rates.html"
    subprocess.run([sys.executable, "-m", "flows.cli", "show", "pass_rates_stem", "--html", str(page)],
                   cwd=folder, check=True, timeout=120)  # fmt: skip
    assert "Outcomes by reason" in page.read_text()
