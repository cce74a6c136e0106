import json
import random
from pathlib import Path

import numpy as np
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import Outcome
from nanbeige_core.data import ingest, quality_tagging
from nanbeige_core.data.annotators import CONTENT_LABELS, FORMAT_LABELS, LABELS
from nanbeige_core.data.character_model import CharacterModel
from nanbeige_core.data.corruptions import CORRUPTIONS
from nanbeige_core.data.quality_tagging import OUTSCORES_COPY, measure_auc
from nanbeige_core.data.tables import read_rows
from nanbeige_core.data.tagging.label_set import BUILT_IN
from nanbeige_core.data.tagging.tagger import find_gate, score_labels
from nanbeige_core.evals.records import read_records
from nanbeige_core.recipe.configs.data import IngestConfig, PackagedSource, QualityTaggingConfig
from nanbeige_core.recipe.fingerprint import identity_values
from tests.data.conftest import MakeJob

TEXT = "The quick brown fox jumps over 12 lazy dogs.\nIt then sleeps, because it is tired.\n" * 6
SOURCES = ("codeio-programs", "docstrings-scientific", "package-readmes")


def tag(make_job: MakeJob, name: str, **changes: object) -> tuple[Outcome, Path]:
    sources = tuple(PackagedSource(name=source, documents=150) for source in SOURCES)
    corpus = make_job("corpus", IngestConfig(sources=sources))
    ingest.run(corpus)
    config = QualityTaggingConfig.model_validate({"annotated_documents": 500, **changes})
    job = make_job(name, config, corpus=(Kind.CORPUS, corpus.work))
    return quality_tagging.run(job), job.work


def test_too_few_documents_to_teach_the_tagger_are_an_error(make_job: MakeJob, tmp_path: Path) -> None:
    table = tmp_path / "few.jsonl"
    table.write_text("\n".join(json.dumps({"text": f"{TEXT} {number}"}) for number in range(5)))
    sources = [{"type": "path", "path": str(table), "category": "web"}]
    corpus = make_job("corpus", IngestConfig.model_validate({"sources": sources}))
    ingest.run(corpus)
    job = make_job("few", QualityTaggingConfig(annotated_documents=100), corpus=(Kind.CORPUS, corpus.work))
    with pytest.raises(ValueError, match="has 5 documents; 12 are held out and at least 8 others teach"):
        quality_tagging.run(job)


def test_there_are_twenty_labels() -> None:
    assert (len(CONTENT_LABELS), len(FORMAT_LABELS), len(set(LABELS))) == (14, 6, 20)


def test_every_corruption_lowers_known_labels() -> None:
    assert all(set(corruption.effects) <= set(LABELS) and corruption.effects for corruption in CORRUPTIONS)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_every_corruption_changes_the_text_and_repeats_itself(corruption: object) -> None:
    results = {corruption.apply(TEXT, 0.9, random.Random(1), "other text " * 30) for _ in range(2)}  # type: ignore[attr-defined]
    assert len(results) == 1
    assert TEXT not in results


def test_noise_costs_more_bits_than_the_language_learned() -> None:
    model = CharacterModel()
    model.learn(TEXT)
    assert model.measure_bits("a lazy fox sleeps over dogs") < model.measure_bits("qx zvkw ¤Ã¬ jjqz wvx pqzt")


def test_the_auc_of_a_hand_case() -> None:
    assert measure_auc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])) == 0.75


def test_the_score_is_the_weighted_content() -> None:
    labels = np.full((1, len(LABELS)), 9.0)
    labels[:, len(CONTENT_LABELS) :] = 0.0
    weights = np.full(len(CONTENT_LABELS), 1 / len(CONTENT_LABELS))
    assert score_labels(labels, weights, BUILT_IN.chosen("content")) == pytest.approx([9.0])


def test_format_labels_alone_can_make_the_score() -> None:
    labels = np.full((1, len(LABELS)), 9.0)
    labels[:, : len(CONTENT_LABELS)] = 0.0
    weights = np.full(len(FORMAT_LABELS), 1 / len(FORMAT_LABELS))
    assert score_labels(labels, weights, BUILT_IN.chosen("format")) == pytest.approx([9.0])


def test_graded_content_labels_keep_the_fingerprints_of_before() -> None:
    assert not {"label_scale", "score_labels"} & set(identity_values(QualityTaggingConfig()))
    assert identity_values(QualityTaggingConfig(label_scale="binary"))["label_scale"] == "binary"


def test_binary_annotators_teach_the_student_two_grades(make_job: MakeJob) -> None:
    spreads: dict[str, float] = {}
    for scale in ("0-9", "binary"):
        _, work = tag(make_job, scale, label_scale=scale)
        spreads[scale] = float(np.std([row["knowledge_density"] for row in read_rows(work / "documents")]))
        assert len(read_records(work, OUTSCORES_COPY)) > 20
    # labels of 0 and 9 lie further apart than grades, and so do the student's
    assert spreads["binary"] > 1.2 * spreads["0-9"]


def test_the_worst_format_label_names_the_gate() -> None:
    labels = np.full(len(LABELS), 9.0)
    labels[LABELS.index("readability")], labels[LABELS.index("repetition")] = 1.5, 0.5
    assert find_gate(labels, {"readability": 2, "repetition": 2}) == "repetition<2"
    assert find_gate(np.full(len(LABELS), 9.0), {"readability": 2}) == ""


def test_the_stage_tags_every_document_and_beats_chance(make_job: MakeJob) -> None:
    outcome, work = tag(make_job, "tagged")
    rows = list(read_rows(work / "documents"))
    assert len(rows) == outcome.counts["read"]
    assert all(0 <= row[name] <= 9 for row in rows for name in LABELS)
    assert outcome.gain is not None
    assert outcome.gain.low is not None
    assert outcome.gain.low > 0


def test_labels_depend_on_neither_files_nor_processes(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = tag(make_job, "one")
    # eight files are enough for a second process
    monkeypatch.setattr(ingest, "ROWS_PER_FILE", 57)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    _, second = tag(make_job, "two")
    assert len(list((second / "documents").iterdir())) == 8
    assert list(read_rows(first / "documents")) == list(read_rows(second / "documents"))
