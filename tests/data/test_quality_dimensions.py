import json
from pathlib import Path

import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import Outcome
from nanbeige_core.data import ingest, quality_dimensions, quality_tagging
from nanbeige_core.data.tables import read_rows
from nanbeige_core.data.tagging.dimensions import candidate_dimensions
from nanbeige_core.data.tagging.label_set import read_label_set
from nanbeige_core.recipe.configs.data import (
    IngestConfig,
    PackagedSource,
    QualityDimensionsConfig,
    QualityTaggingConfig,
)
from tests.data.conftest import MakeJob

SOURCES = ("codeio-programs", "docstrings-scientific", "package-readmes")


@pytest.fixture
def corpus(make_job: MakeJob) -> Path:
    job = make_job("corpus", IngestConfig(sources=tuple(PackagedSource(name=name, documents=150) for name in SOURCES)))
    ingest.run(job)
    return job.work


def choose(make_job: MakeJob, corpus: Path, **changes: object) -> tuple[Outcome, Path]:
    config = QualityDimensionsConfig.model_validate({"annotated_documents": 400, **changes})
    job = make_job("chosen", config, corpus=(Kind.CORPUS, corpus))
    return quality_dimensions.run(job), job.work


def test_twenty_of_all_candidates_are_chosen_and_become_the_labels_of_the_tagger(
    make_job: MakeJob, corpus: Path
) -> None:
    outcome, work = choose(make_job, corpus)
    table = list(read_rows(work / "candidates.parquet"))
    assert len(table) == len(candidate_dimensions()) == outcome.counts["candidates"]
    assert sorted(row["order"] for row in table if row["order"]) == list(range(1, 21))
    assert all(row["reason"] for row in table)
    assert sum(row["kind"] == "content" for row in table if row["order"]) == 14
    assert 0.05 < outcome.metrics["held_out_r2"] <= 1
    agreement = next(section for section in outcome.sections if section.title == "Annotator agreement")
    assert {row["dimension"] for row in agreement.table} >= {"educational_value", "safety"}
    overlap = {row["name"]: row for row in read_rows(work / "overlap.parquet")}
    assert overlap["safety"]["safety"] == pytest.approx(1)

    labels = read_label_set(work)
    config = QualityTaggingConfig(annotated_documents=400)
    job = make_job("tagged", config, corpus=(Kind.CORPUS, corpus), dimensions=(Kind.QUALITY_DIMENSIONS, work))
    tagged = quality_tagging.run(job)
    rows = list(read_rows(job.work / "documents"))
    assert all(0 <= row[name] <= 9 for row in rows for name in labels.names)
    assert tagged.gain is not None
    assert tagged.gain.after > 0.55
    agreed = next(section for section in tagged.sections if section.title.startswith("Held-out agreement"))
    assert [row["label"] for row in agreed.table] == list(labels.names)
    absent = sorted(set(config.gates) - set(labels.names))
    shown = [section for section in tagged.sections if section.title == "Gates without a label"]
    assert [row["gate"] for section in shown for row in section.table] == absent


def test_a_corpus_too_small_to_annotate_is_refused(make_job: MakeJob, corpus: Path) -> None:
    with pytest.raises(ValueError, match="documents; 1200 are annotated and at least 100 others"):
        choose(make_job, corpus, annotated_documents=2000)


def test_a_selection_that_names_an_unknown_label_is_refused(tmp_path: Path) -> None:
    label = candidate_dimensions()[0].model_dump() | {"name": "gone"}
    (tmp_path / "dimensions.json").write_text(json.dumps({"labels": [label]}))
    with pytest.raises(ValueError, match="no measure is known for gone"):
        read_label_set(tmp_path)
