"""The whole stage on a tiny student: with a local teacher, with its cached tokens, and with a foreign one."""

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.distill import teacher_logits, train
from nanbeige_core.distill.teacher_cache import CacheError, TeacherCache
from nanbeige_core.distill.teachers import TeacherChoice
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.parity import run_ranks
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import OptimizerConfig
from nanbeige_core.recipe.configs.distill import DpdConfig, TeacherLogitsConfig
from nanbeige_core.rl.prompts import PromptRow
from tests.distill.test_unlike_vocabularies import word_tokenizer
from tests.sft.tiny_tokenizer import tiny_tokenizer

KINDS = {
    "checkpoint": Kind.CHECKPOINT,
    "teacher": Kind.CHECKPOINT,
    "foreign": Kind.CHECKPOINT,
    "tokenizer": Kind.TOKENIZER,
    "teacher_tokenizer": Kind.TOKENIZER,
    "problems": Kind.PROMPT_SET,
    "pairs": Kind.PREFERENCE_PAIRS,
    "teacher_logits": Kind.TEACHER_LOGITS,
}
SMALL: dict[str, Any] = {
    "sequence_length": 128,
    "global_batch_size": 2,
    "epochs": 2,
    "learning_rate": 3e-3,
    "gradient_norm_every": 1,
    "divergence_chunk": 32,
    "heldout": {"problems": 0},
}


def write_model(root: Path, name: str, *, vocab_size: int, tokenizer: str, seed: int) -> None:
    trainer = Trainer.open(
        model=parity.MODEL,
        vocab_size=vocab_size,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-3, total=2),
        runtime=Runtime(),
        seed=seed,
    )
    (root / name).mkdir()
    trainer.save(root / name, tokenizer_fingerprint=tokenizer, stage=name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Student, teacher of the same tokenizer, teacher of another, and pairs."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("dpd")
    ours, theirs = tiny_tokenizer(), word_tokenizer()
    ours.save_pretrained(root / "tokenizer")
    theirs.save_pretrained(root / "teacher_tokenizer")
    for name, tokenizer, mark, seed in (
        ("checkpoint", ours, "ours", 1),
        ("teacher", ours, "ours", 2),
        ("foreign", theirs, "theirs", 3),
    ):
        write_model(root, name, vocab_size=len(tokenizer), tokenizer=mark, seed=seed)
    (root / "problems").mkdir()
    pq.write_table(
        pa.table({name: pa.array([], pa.string()) for name in PromptRow._fields}), root / "problems" / "prompts.parquet"
    )
    (root / "pairs").mkdir()
    for split, numbers in (("pairs", range(6)), ("validation", range(6, 8))):
        rows = [
            {"id": str(n), "prompt": f"{n} + {n}?", "chosen": f"It is {2 * n}.", "rejected": f"Maybe {n}, so on"}
            for n in numbers
        ]
        pq.write_table(pa.Table.from_pylist(rows), root / "pairs" / f"{split}.parquet")
    parallel.teardown()
    return root


def job(root: Path, work: Path, config: Any, inputs: dict[str, str], runtime: Runtime | None = None) -> Job:
    given = {
        name: InputArtifact(name, KINDS[name], f"{name}-print", root / folder if "/" not in folder else Path(folder))
        for name, folder in inputs.items()
    }
    work.mkdir(parents=True, exist_ok=True)
    return Job("dpd", config, runtime or Runtime(micro_batch_size=2), given, work, work)


COMMON = {"checkpoint": "checkpoint", "tokenizer": "tokenizer", "problems": "problems", "pairs": "pairs"}


def distil(root: Path, work: Path, inputs: dict[str, str], runtime: Runtime | None = None, **values: Any) -> Any:
    config = DpdConfig.model_validate(SMALL | values)
    outcome = train.run(job(root, work, config, COMMON | inputs, runtime))
    return outcome, json.loads((work / "state.json").read_text())["history"]


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("logits")
    inputs = {"teacher": "teacher", "tokenizer": "tokenizer", "pairs": "pairs"}
    config = TeacherLogitsConfig(top_k=16, sequence_length=128, chunk_pairs=3)
    outcome = teacher_logits.run(job(root, work, config, inputs))
    parallel.teardown()
    assert outcome.counts["responses"] == 16  # two of each pair, of both splits
    return work


@pytest.fixture(autouse=True)
def one_rank() -> Any:
    torch.set_num_threads(1)
    yield
    parallel.teardown()


def test_cached_tokens_train_as_the_live_teachers_do(root: Path, cache: Path, tmp_path: Path) -> None:
    _, live = distil(root, tmp_path / "live", {"teacher": "teacher"}, teacher_top_k=8)
    _, cached = distil(root, tmp_path / "cached", {"teacher_logits": str(cache)}, teacher_top_k=8)
    assert len(live) == len(cached) == 6
    for name in ("loss", "positive_kl", "negative_kl", "grad_norm"):
        # log-probabilities are stored in fp16
        assert [step[name] for step in cached] == pytest.approx([step[name] for step in live], rel=2e-3), name


def test_a_cache_does_not_depend_on_chunks_or_packing(root: Path, cache: Path, tmp_path: Path) -> None:
    inputs = {"teacher": "teacher", "tokenizer": "tokenizer", "pairs": "pairs"}
    config = TeacherLogitsConfig(top_k=16, sequence_length=256, chunk_pairs=100)
    teacher_logits.run(job(root, tmp_path, config, inputs, Runtime(micro_batch_size=1)))
    one, other = TeacherCache.open(cache), TeacherCache.open(tmp_path)
    assert one.header == other.header
    keys = json.loads((cache / "logits" / "keys.json").read_text())
    assert keys.keys() == json.loads((tmp_path / "logits" / "keys.json").read_text()).keys()


def test_a_cache_of_another_tokenizer_or_too_few_tokens_is_refused(root: Path, cache: Path, tmp_path: Path) -> None:
    inputs = COMMON | {"teacher_logits": str(cache)}
    with pytest.raises(CacheError, match="holds the 16 best"):
        TeacherChoice(job(root, tmp_path, None, inputs), DpdConfig.model_validate(SMALL | {"teacher_top_k": 17}))
    opened = TeacherCache.open(cache)
    with pytest.raises(CacheError, match="other tokens"):
        opened.require(tokenizer_fingerprint="theirs", vocab_size=opened.header.vocab_size, top_k=4)


def test_a_foreign_teacher_is_refused_unless_asked_for(root: Path, tmp_path: Path) -> None:
    inputs = COMMON | {"teacher": "foreign"}
    with pytest.raises(ValueError, match="cross_tokenizer"):
        TeacherChoice(job(root, tmp_path, None, inputs), DpdConfig.model_validate(SMALL))
    with pytest.raises(ValueError, match="teacher_tokenizer is missing"):
        TeacherChoice(job(root, tmp_path, None, inputs), DpdConfig.model_validate(SMALL | {"cross_tokenizer": "gold"}))


@pytest.mark.parametrize("mode", ["uld", "gold"])
def test_a_foreign_teacher_draws_the_student_nearer(root: Path, tmp_path: Path, mode: str) -> None:
    inputs = {"teacher": "foreign", "teacher_tokenizer": "teacher_tokenizer"}
    outcome, history = distil(root, tmp_path, inputs, cross_tokenizer=mode, dpo_weight=0.0)
    assert outcome.metrics["positive_kl_after"] < outcome.metrics["positive_kl_before"]
    assert history[0]["positive_gradient_squared"] > 0


def foreign_in_tp2(rank: int, *, root: Path, work: Path) -> Any:
    del rank
    runtime = Runtime(processes=2, tensor_parallel=2, micro_batch_size=1)
    inputs = {"teacher": "foreign", "teacher_tokenizer": "teacher_tokenizer"}
    return distil(root, work, inputs, runtime, cross_tokenizer="gold")[1]


def test_a_foreign_teacher_under_tensor_parallelism_trains_the_same_model(root: Path, tmp_path: Path) -> None:
    inputs = {"teacher": "foreign", "teacher_tokenizer": "teacher_tokenizer"}
    _, alone = distil(root, tmp_path / "one", inputs, cross_tokenizer="gold")
    parallel.teardown()
    split = run_ranks(2, functools.partial(foreign_in_tp2, root=root, work=tmp_path / "two"), tmp_path)[0]
    for name in ("loss", "grad_norm", "positive_kl"):
        assert [step[name] for step in split] == pytest.approx([step[name] for step in alone], rel=1e-3), name
