"""Measure what this machine does with small models: training steps, forward passes, sampling, a plain product.

Every kind of pass is timed at two sizes and fitted as  layers * pass_seconds + operations / rate  (the price's own
model of a device). Sizes take turns, round by round, so that a busy minute slows all of them alike; medians count.
Legend: B sequence, S position, P prompt.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.transformers_engine import STOP_TOKEN, TransformersEngine
from nanbeige_core.megatron import convert, device
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.configs.pretrain import FgwsdConfig
from nanbeige_core.recipe.load import Recipe
from nanbeige_core.recipe.price.calibration import Calibration, Fit
from nanbeige_core.recipe.price.transformer import Decoder, packed_pairs

Clock = Callable[[], float]
ROUNDS = 7
LARGEST_LAYERS, PROBE_VOCABULARY, LONGEST_WINDOW = 4, 4096, 2048
"""A model of the recipe is measured at most this large: what a layer and an operation cost is wanted, not the whole."""
PROMPT_TOKENS, DRAWN_TOKENS = 16, 24
PRODUCT = 1024
"""Side of the matrices whose product is timed."""


class Probe(NamedTuple):
    """One thing to time, with its operations and how often it passes a layer."""

    run: Callable[[], object]
    flops: float
    layer_passes: float


def measure(probes: Mapping[str, Probe], *, rounds: int = ROUNDS, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Return the median seconds of each probe; one warm-up round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in probes}
    for number in range(rounds + 1):
        for name, probe in probes.items():
            begun = clock()
            probe.run()
            if device.on_cuda():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(clock() - begun)
    return {name: statistics.median(found) for name, found in seconds.items()}


def fit(small: Probe, small_seconds: float, large: Probe, large_seconds: float) -> Fit:
    """Solve for rate and overhead; where noise leaves no overhead, the larger probe alone gives the rate."""
    # seconds = layer_passes * p + flops / r, twice
    determinant = small.layer_passes * large.flops - large.layer_passes * small.flops
    overhead = (small_seconds * large.flops - large_seconds * small.flops) / determinant if determinant else 0.0
    computing = large_seconds - large.layer_passes * overhead
    if overhead < 0 or computing <= 0:
        return Fit(flops_per_second=large.flops / large_seconds, pass_seconds=0.0)
    return Fit(flops_per_second=large.flops / computing, pass_seconds=overhead)


def probe_model(model: ModelConfig, window: int) -> ModelConfig:
    """Return the model cut to what is measured: the same widths, fewer layers, a shorter window."""
    return model.model_copy(
        update={"layers": min(model.layers, LARGEST_LAYERS), "max_positions": min(window, LONGEST_WINDOW)}
    )


def open_probe_trainer(decoder: Decoder, *, threads: int) -> Trainer:
    """Return a one-rank trainer of a randomly initialised model."""
    return Trainer.open(
        model=decoder.model,
        vocab_size=decoder.vocab_size,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-5, total=10**6),
        runtime=Runtime.model_validate({"threads": threads}),
        seed=0,
    )


def training_probe(trainer: Trainer, decoder: Decoder, *, rows: int, length: int) -> Probe:
    """Return one optimizer step on one micro-batch of random tokens."""
    batch = _batch(decoder, rows, length)
    loss = make_cross_entropy(float(rows * length))
    tokens = float(rows * length)
    return Probe(
        lambda: trainer.train_step([batch], loss),
        decoder.training_flops(tokens, packed_pairs(tokens, length)).expected,
        decoder.model.layers,
    )


def reading_probe(trainer: Trainer, decoder: Decoder, *, rows: int, length: int) -> Probe:
    """Return one forward pass over random tokens with the log-probability of each."""
    batch = _batch(decoder, rows, length)
    tokens = float(rows * length)
    flops = decoder.forward_flops(tokens, packed_pairs(tokens, length)).expected
    return Probe(lambda: trainer.log_probs([batch]), flops, decoder.model.layers)


def sampling_probe(trainer: Trainer, decoder: Decoder, *, rows: int) -> Probe:
    """Return the sampling of some responses; a random model hardly ever ends one early."""
    engine = _open_engine(trainer, decoder)
    sampling = SamplingConfig(max_new_tokens=DRAWN_TOKENS)
    prompts = [[number % 7 + 2] * PROMPT_TOKENS for number in range(rows)]
    read = decoder.prefill_flops(float(rows), PROMPT_TOKENS).expected
    drawn = decoder.decode_flops(float(rows), PROMPT_TOKENS, DRAWN_TOKENS).expected
    return Probe(
        lambda: engine.generate(prompts, sampling, n=1, seed=0), read + drawn, decoder.model.layers * DRAWN_TOKENS
    )


def _batch(decoder: Decoder, rows: int, length: int) -> Batch:
    ids = torch.randint(0, decoder.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, length))


def _open_engine(trainer: Trainer, decoder: Decoder) -> TransformersEngine:
    names = {STOP_TOKEN: 0, "<unk>": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(names, unk_token="<unk>")))
    state = {name: weight.clone() for name, weight in trainer.hf_state_dict().items()}
    card: dict[str, Any] = {**decoder.model.model_dump(), "vocab_size": decoder.vocab_size}
    return TransformersEngine(state, convert.hf_config(card), tokenizer)


def matmul_rate(*, rounds: int = ROUNDS, clock: Clock = time.perf_counter) -> float:
    """Return operations per second of a large fp32 product: the ceiling that models stay below."""
    left = torch.randn(PRODUCT, PRODUCT, device=device.device())
    probe = Probe(lambda: left @ left, 2.0 * PRODUCT**3, 0)
    return probe.flops / measure({"product": probe}, rounds=rounds, clock=clock)["product"]


def calibrate(
    recipe: Recipe, device_name: str, *, rounds: int = ROUNDS, clock: Clock = time.perf_counter
) -> Calibration:
    """Measure the recipe's student, at most LARGEST_LAYERS deep, on this machine.

    Raises ValueError when the recipe has no pretraining stage to take a model from.
    """
    stage = next((stage for stage in recipe.stages.values() if isinstance(stage.config, FgwsdConfig)), None)
    if stage is None:
        raise ValueError("the recipe has no FG-WSD stage, whose model would be measured. Calibrate with one that has.")
    config: Any = stage.config
    window = min(config.sequence_length, LONGEST_WINDOW)
    decoder = Decoder(probe_model(config.model, window), PROBE_VOCABULARY)
    trainer = open_probe_trainer(decoder, threads=stage.runtime.threads)
    rows = max(min(stage.runtime.micro_batch_size, config.global_batch_size), 2)
    pairs = {
        kind: (probe(trainer, decoder, rows=1, length=window // 4), probe(trainer, decoder, rows=rows, length=window))
        for kind, probe in (("training", training_probe), ("reading", reading_probe))
    }
    if not device.on_cuda():  # the in-process engine samples on the host; on a GPU vLLM does, by the card's figures
        pairs["decoding"] = (sampling_probe(trainer, decoder, rows=4), sampling_probe(trainer, decoder, rows=64))
    fits = fit_pairs(pairs, rounds=rounds, clock=clock)
    return Calibration(
        device=device_name,
        dtype=config.model.dtype,
        machine=platform.node(),
        measured=datetime.now(UTC).isoformat(),
        matmul_flops_per_second=matmul_rate(rounds=rounds, clock=clock),
        training=fits["training"],
        reading=fits["reading"],
        decoding=fits.get("decoding"),
    )


def fit_pairs(pairs: Mapping[str, tuple[Probe, Probe]], *, rounds: int, clock: Clock) -> dict[str, Fit]:
    """Time the small and the large probe of every kind in turns and fit each kind."""
    sizes = ("small", "large")
    named = {f"{kind} {size}": probe for kind, pair in pairs.items() for size, probe in zip(sizes, pair, strict=True)}
    seconds = measure(named, rounds=rounds, clock=clock)
    return {
        kind: fit(small, seconds[f"{kind} small"], large, seconds[f"{kind} large"])
        for kind, (small, large) in pairs.items()
    }
