import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import Job
from nanbeige_core.data import tokenizer_training
from nanbeige_core.data.indexed_dataset import IndexedDatasetError, read_indexed_dataset, write_indexed_dataset
from nanbeige_core.data.mixture import run
from nanbeige_core.data.phases import TokenSet, weigh_phases
from nanbeige_core.data.rendering import choose_rendering, render_problem
from nanbeige_core.data.retrieval_dedup import CURATED_SCHEMA
from nanbeige_core.data.tables import read_rows, write_rows
from nanbeige_core.data.tokenizer import load_tokenizer
from nanbeige_core.recipe.configs.data import MixtureConfig, TokenizerConfig
from tests.data.conftest import MakeJob

SOURCE = Path(argparse.__file__).read_text()
SETS = [
    TokenSet("hq", "web", 300, 3),
    TokenSet("hq", "code", 100, 1),
    TokenSet("hq", "long_cot", 50, 5),
    TokenSet("mq", "web", 400, 4),
]
SHARES: dict[str, Any] = {
    "hq_token_share": 0.52,
    "synthetic_share": 0.15,
    "decay_factor": 2.0,
    "decay_categories": ("code", "long_cot"),
}
PROBLEM = {"language": "en", "prompt": "1+1?", "reasoning": "add them", "answer": "\\boxed{2}"}


def documents(vocab: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, vocab, length) for length in (5, 1, 300, 17)]


@pytest.mark.parametrize("vocab", [4096, 166_144])
def test_the_files_are_byte_for_byte_megatrons(tmp_path: Path, vocab: int) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), DType.optimal_dtype(vocab))
    for document in documents(vocab):
        builder.add_document(torch.tensor(document), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    write_indexed_dataset(tmp_path / "ours", documents(vocab), vocab)
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"ours{ending}").read_bytes() == (tmp_path / f"theirs{ending}").read_bytes()


def test_a_dataset_reads_back(tmp_path: Path) -> None:
    assert write_indexed_dataset(tmp_path / "a", documents(100), 100) == 323
    tokens, starts = read_indexed_dataset(tmp_path / "a")
    assert starts.tolist() == [0, 5, 6, 306, 323]
    assert np.array_equal(tokens, np.concatenate(documents(100)))


def test_a_cut_off_dataset_is_refused(tmp_path: Path) -> None:
    write_indexed_dataset(tmp_path / "a", documents(100), 100)
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:-2])
    with pytest.raises(IndexedDatasetError, match="cut off"):
        read_indexed_dataset(tmp_path / "a")


def test_every_phase_sums_to_one() -> None:
    assert [sum(weights.values()) for weights in weigh_phases(SETS, **SHARES).values()] == pytest.approx([1] * 4)


def test_the_diverse_phase_splits_the_tiers_as_the_report_does() -> None:
    weights = weigh_phases(SETS, **SHARES)["diverse_stable"]
    assert weights["mq-web"] == pytest.approx(0.48)
    assert weights["hq-long_cot"] == pytest.approx(0.15)


def test_the_stable_phase_is_high_quality_alone() -> None:
    assert set(weigh_phases(SETS, **SHARES)["hq_stable"]) == {"hq-web", "hq-code", "hq-long_cot"}


def test_decay_doubles_its_categories_before_renormalising() -> None:
    phases = weigh_phases(SETS, **SHARES)
    stable, decay = phases["hq_stable"], phases["decay"]
    assert decay["hq-code"] / decay["hq-web"] == pytest.approx(2 * stable["hq-code"] / stable["hq-web"])


def test_a_missing_tier_leaves_its_share_to_the_others() -> None:
    weights = weigh_phases(SETS[:2], **SHARES)["diverse_stable"]
    assert weights == pytest.approx({"hq-web": 0.75, "hq-code": 0.25})


def test_a_chat_rendering_holds_the_reasoning_as_thought() -> None:
    text = render_problem(PROBLEM, "chat").text
    assert text.endswith("<|im_start|>assistant\n<think>\nadd them\n</think>\n\n\\boxed{2}<|im_end|>\n")


def test_a_problem_without_reasoning_is_told_short() -> None:
    rendered = render_problem(PROBLEM | {"reasoning": ""}, "chat")
    assert (rendered.text, rendered.category) == ("Question: 1+1?\nAnswer: \\boxed{2}", "synthetic_qa")


def test_renderings_follow_their_shares() -> None:
    drawn = [choose_rendering(str(number), 0.5, 0.3, 0) for number in range(2000)]
    assert drawn.count("chat") / 2000 == pytest.approx(0.5, abs=0.04)
    assert drawn.count("worked") / 2000 == pytest.approx(0.3, abs=0.04)


def test_shares_above_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="at most 1"):
        MixtureConfig(long_cot_share=0.8, worked_share=0.4)


def curated(folder: Path) -> Path:
    rows = [
        {
            "id": f"d{number}",
            "text": SOURCE[number * 600 : (number + 1) * 600],
            "source": "s",
            "category": ("web", "code")[number % 2],
            "language": "en",
            "licence": "x",
            "tag_score": 5.0,
            "similarity": 0.0,
            "final_score": 0.5,
            "tier": ("hq", "mq")[number % 3 == 0],
            "tokens_estimate": 10,
        }
        for number in range(60)
    ]
    write_rows(folder / "documents" / "0.parquet", CURATED_SCHEMA, rows)
    return folder


@pytest.fixture
def mixture_job(make_job: MakeJob, problems: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Job:
    kind = getattr(request, "param", "byte_fallback")
    inputs = {
        "corpus": (Kind.CURATED_CORPUS, curated(tmp_path / "curated")),
        "problems": (Kind.PROMPT_SET, problems),
    }
    tokenizer = make_job("tokenizer", TokenizerConfig(vocab_size=512, training_characters=40_000, kind=kind), **inputs)
    tokenizer_training.run(tokenizer)
    return make_job("mixture", MixtureConfig(), **inputs, tokenizer=(Kind.TOKENIZER, tokenizer.work))


@pytest.mark.parametrize(
    ("mixture_job", "engine"),
    [("byte_fallback", "compiled kernels"), ("byte_level", "gigatoken")],
    indirect=["mixture_job"],
)
def test_every_sequence_is_its_document_with_an_end_token(mixture_job: Job, engine: str) -> None:
    outcome = run(mixture_job)
    (used,) = next(section.table for section in outcome.sections if section.title == "Encoding")
    assert used["engine"] == engine
    assert used["documents"] >= used["compared"] > 0
    tokenizer = load_tokenizer(mixture_job.inputs["tokenizer"].path)
    texts = {row["id"]: row["text"] for row in read_rows(mixture_job.inputs["corpus"].path / "documents")}
    found = 0
    for row in read_rows(mixture_job.work / "sidecar.parquet"):
        tokens, starts = read_indexed_dataset(mixture_job.work / row["set"])
        ids = tokens[starts[row["index"]] : starts[row["index"] + 1]]
        assert len(ids) == row["tokens"]
        if row["document_id"] in texts:
            assert tokenizer.decode(ids) == texts[row["document_id"]] + "<|endoftext|>"
            found += 1
    assert found == len(texts)


def test_held_out_documents_are_in_no_training_set(mixture_job: Job) -> None:
    run(mixture_job)
    rows = list(read_rows(mixture_job.work / "sidecar.parquet"))
    held_out = {row["document_id"] for row in rows if row["set"] == "validation"}
    trained = {row["document_id"] for row in rows if row["set"] != "validation"}
    assert held_out
    assert not held_out & trained


def test_the_held_out_documents_of_the_better_half_are_there_by_themselves(mixture_job: Job) -> None:
    run(mixture_job)
    tiers = {row["id"]: row["tier"] for row in read_rows(mixture_job.inputs["corpus"].path / "documents")}
    held_out = [row for row in read_rows(mixture_job.work / "sidecar.parquet") if row["set"] == "validation"]
    assert {tiers.get(row["document_id"], "hq") for row in held_out} == {"hq", "mq"}
    both, better = (read_indexed_dataset(mixture_job.work / name) for name in ("validation", "validation-hq"))
    texts = [
        both.tokens[both.starts[row["index"]] : both.starts[row["index"] + 1]].tolist()
        for row in held_out
        if tiers.get(row["document_id"], "hq") == "hq"
    ]
    found = zip(better.starts, better.starts[1:], strict=False)
    assert [better.tokens[start:end].tolist() for start, end in found] == texts


def test_evaluation_problems_stay_out(mixture_job: Job) -> None:
    run(mixture_job)
    ids = {row["document_id"] for row in read_rows(mixture_job.work / "sidecar.parquet")}
    assert not {name for name in ids if name.startswith(("eval-", "heldout-", "sft-"))}


def test_control_tokens_of_chat_text_are_single_ids(mixture_job: Job) -> None:
    run(mixture_job)
    tokens, starts = read_indexed_dataset(mixture_job.work / "hq-long_cot")
    control = load_tokenizer(mixture_job.inputs["tokenizer"].path).convert_tokens_to_ids("<|im_start|>")
    assert all(tokens[start] == control for start in starts[:-1])


def test_the_description_matches_the_files(mixture_job: Job) -> None:
    run(mixture_job)
    description = json.loads((mixture_job.work / "mixture.json").read_text())
    for item in [*description["sets"], description["validation"], description["validation_hq"]]:
        assert len(read_indexed_dataset(mixture_job.work / item["name"]).tokens) == item["tokens"]
    assert set(description["phases"]) == {"warmup", "diverse_stable", "hq_stable", "decay"}


def test_an_interrupted_mixture_goes_on_from_its_chunks(mixture_job: Job) -> None:
    run(mixture_job)
    before = (mixture_job.work / "hq-web.bin").read_bytes()
    chunk = next(mixture_job.scratch.glob("encoded-*.npz"))
    stamp = chunk.stat().st_mtime_ns
    (mixture_job.work / "mixture.json").unlink()
    (mixture_job.work / "hq-web.bin").unlink()
    run(mixture_job)
    assert chunk.stat().st_mtime_ns == stamp
    assert (mixture_job.work / "hq-web.bin").read_bytes() == before


def test_too_little_text_for_the_vocabulary_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(
        "small",
        TokenizerConfig(vocab_size=5000, training_characters=5000),
        corpus=(Kind.CURATED_CORPUS, curated(tmp_path / "curated")),
    )
    with pytest.raises(ValueError, match="too little text for the vocabulary"):
        tokenizer_training.run(job)
