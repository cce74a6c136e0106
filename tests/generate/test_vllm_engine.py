"""The vLLM engine for real: on CPU its CPU build does (see docs/how-to/one-gpu.md), and without vLLM all is skipped."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Completion
from nanbeige_core.generate.vllm_engine import VllmEngine
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.rl.probe import compare_engine, require_agreement
from tests.generate.making import WINDOW, tokenizer

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
PROMPTS = [[40, 41, 42], [50] * 12, [60, 61], [70, 71, 72, 73, 74]]
TOLERANCE = 1e-4
Models = Callable[[int], LlamaForCausalLM]


def make_model(seed: int, *, tied: bool) -> LlamaForCausalLM:
    """Return a random model; vLLM's CPU attention takes heads of 32 and more."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=tied,
    )
    built = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return built


def forget_groups() -> None:
    """Destroy the process group and vLLM's state in it: this process opens more of both than a stage would."""
    from vllm.distributed import cleanup_dist_env_and_memory  # pyright: ignore

    cleanup_dist_env_and_memory()


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    torch.set_num_threads(1)
    parallel.teardown()
    model = ModelConfig(
        layers=2, hidden_size=64, query_heads=4, kv_heads=2, head_size=32, ffn_size=96, max_positions=WINDOW,
        initializer_range=0.2, dtype="float32",
    )  # fmt: skip
    yield Trainer.open(
        model=model,
        vocab_size=len(tokenizer()),
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=5e-2, total=20),
        runtime=Runtime(micro_batch_size=2),
        seed=7,
    )
    parallel.reset()
    forget_groups()


def test_engine_and_megatron_trainer_agree_after_each_sync(trainer: Trainer, tmp_path: Path) -> None:
    trainer.save(tmp_path / "checkpoint", tokenizer_fingerprint="t", stage="made")
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    engine = open_engine(tmp_path / "checkpoint", tmp_path / "tokenizer", Runtime(engine="vllm"))
    assert compare_engine(engine, trainer, PROMPTS[3]).difference < TOLERANCE
    for _ in range(2):
        ids = torch.randint(0, len(tokenizer()), (2, 17))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(2, 16), None)
        trainer.train_step([batch], make_cross_entropy(32.0))
        # the probe must be able to fail: stale weights are seen
        assert compare_engine(engine, trainer, PROMPTS[3]).difference > 10 * TOLERANCE
        engine.update_weights(trainer.hf_state_dict(), trainer.step)
        require_agreement(engine, trainer, PROMPTS[3], tolerance=TOLERANCE)
    engine.close()


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEngine, bool]]:
    folder = tmp_path_factory.mktemp("model")
    make_model(0, tied=request.param).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    engine = VllmEngine(folder, tokenizer(), window=WINDOW)
    yield engine, request.param
    engine.close()
    forget_groups()


def largest_error(model: LlamaForCausalLM, item: Completion, temperature: float) -> float:
    """Return the largest difference from transformers' own uncached forward pass, nat."""
    with torch.no_grad():
        logits = model(torch.tensor([item.prompt_ids + item.token_ids])).logits[0]
    logp = torch.log_softmax(logits / temperature, dim=-1)
    first = len(item.prompt_ids) - 1
    return max(
        abs(float(logp[first + place, token]) - item.logprobs[place]) for place, token in enumerate(item.token_ids)
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_are_those_of_the_full_distribution(opened: tuple[VllmEngine, bool], temperature: float) -> None:
    engine, tied = opened
    engine.update_weights(make_model(0, tied=tied).state_dict(), 0)
    drawn = engine.generate(PROMPTS, SamplingConfig(temperature=temperature, max_new_tokens=12), n=3, seed=1)
    assert [len(group) for group in drawn] == [3] * len(PROMPTS)
    model = make_model(0, tied=tied)
    assert max(largest_error(model, item, temperature) for group in drawn for item in group) < TOLERANCE


def test_new_weights_are_used_at_once(opened: tuple[VllmEngine, bool]) -> None:
    engine, tied = opened
    for version in (1, 2, 3):
        model = make_model(version, tied=tied)
        engine.update_weights(model.state_dict(), version)
        item = engine.generate([PROMPTS[3]], SamplingConfig(temperature=0, max_new_tokens=8), n=1, seed=0)[0][0]
        expected = model.generate(torch.tensor([PROMPTS[3]]), max_new_tokens=8, do_sample=False)[0, 5:]
        assert list(item.token_ids) == expected.tolist()[: len(item.token_ids)]
        assert largest_error(model, item, 1.0) < TOLERANCE
        assert engine.version == version


def test_equal_seeds_draw_equal_responses_and_others_differ(opened: tuple[VllmEngine, bool]) -> None:
    engine, _ = opened
    sampling = SamplingConfig(max_new_tokens=12)
    first, again, other = (engine.generate(PROMPTS, sampling, n=4, seed=seed) for seed in (1, 1, 2))
    assert [[c.token_ids for c in group] for group in first] == [[c.token_ids for c in group] for group in again]
    assert first != other
    assert len({item.token_ids for item in first[0]}) > 1


def test_samples_follow_the_policy_distribution(opened: tuple[VllmEngine, bool]) -> None:
    engine, tied = opened
    model = make_model(9, tied=tied)
    engine.update_weights(model.state_dict(), 9)
    drawn = engine.generate([PROMPTS[0]], SamplingConfig(max_new_tokens=1), n=4000, seed=5)[0]
    counts = torch.bincount(torch.tensor([item.token_ids[0] for item in drawn]), minlength=len(tokenizer()))
    probabilities = model(torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    assert float((counts / 4000 - probabilities).abs().max()) < 0.025


def test_a_response_never_leaves_the_window(opened: tuple[VllmEngine, bool]) -> None:
    long = [45] * (WINDOW - 3)
    for item in opened[0].generate([long], SamplingConfig(max_new_tokens=40), n=4, seed=0)[0]:
        assert len(item.token_ids) <= 3
