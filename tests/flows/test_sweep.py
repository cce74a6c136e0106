"""A real sweep through Prefect: three arms, one of which fails, on documents that packages ship."""

import json
from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.configs.sweep import SUMMARY
from nanbeige_core.recipe.measures import RECORDS
from tests.flows.test_pipeline import nanbeige

pytestmark = pytest.mark.server


def sweep_file(tmp_path: Path) -> Path:
    sources = [{"type": "packaged", "name": "docstrings-math", "documents": 120, "characters": 200000}]
    absent = {"type": "path", "path": str(tmp_path / "absent.jsonl"), "category": "web"}
    tree = {
        "recipe": "a small sweep",
        "stages": {
            "ingest": {"config": {"sources": sources}},
            "quality_tagging": {"in": {"corpus": "ingest"}, "config": {"annotated_documents": 100}},
        },
        "profiles": {"laptop": {"title": "small"}},
        "sweeps": {
            "scale": {
                "title": "graded against binary",
                "metric": "quality_tagging.outscores_damaged_copy",
                "arms": [
                    {"name": "graded"},
                    {"name": "binary", "set": ["quality_tagging.label_scale=binary"]},
                    {"name": "broken", "set": [f"ingest.sources=[{json.dumps(absent)}]"]},
                ],
                "seeds": [1, 2],
                "seed_fields": ["quality_tagging.seed"],
            }
        },
    }
    file = tmp_path / "pipelines.yaml"
    file.write_text(json.dumps(tree))
    return file


def test_a_sweep_shares_what_is_common_finishes_the_sound_arms_and_names_the_broken_one(
    prefect_api: str, tmp_path: Path
) -> None:
    file = sweep_file(tmp_path)
    plan = nanbeige("sweep", "scale", "--plan", "--file", str(file), cwd=tmp_path, api="http://127.0.0.1:9/api")
    assert "3 arms x 2 seeds = 6 runs of 2 stages: 12 stage runs, 8 after sharing, 8 to execute" in plan.stdout
    run = nanbeige("sweep", "scale", "--file", str(file), cwd=tmp_path, api=prefect_api)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "broken, seed 1: at ingest" in run.stderr
    assert "absent.jsonl" in run.stderr
    assert "Traceback" not in run.stderr.rpartition("error: ")[2]  # what the command itself says
    store = Store(tmp_path / "store", tmp_path / "store/.cache")
    (report,) = store.manifests("sweep-scale")
    assert set(report.inputs) == {"graded@1", "graded@2", "binary@1", "binary@2"}
    assert report.outcome.counts["failed"] == 2
    assert "nothing is claimed" in (store.local_path(report) / SUMMARY).read_text()
    assert len(store.manifests("ingest")) == 1
    assert all(RECORDS in manifest.files for manifest in store.manifests("quality_tagging"))
    again = nanbeige("sweep", "scale", "--plan", "--json", "--file", str(file), cwd=tmp_path, api=prefect_api)
    actions = [stage["action"] for stage in json.loads(again.stdout)["stages"]]
    assert actions.count("HIT") == 5


def test_an_unknown_sweep_is_one_clear_message(tmp_path: Path) -> None:
    run = nanbeige("sweep", "scal", "--file", str(sweep_file(tmp_path)), cwd=tmp_path, api="http://127.0.0.1:9/api")
    assert run.returncode == 2
    assert "did you mean 'scale'" in run.stderr
    assert "Traceback" not in run.stderr
