"""After every weight sync, ask engine and trainer for the same greedy log-probabilities (trl #5312, slime #1840).

A stale, partial or wrongly laid out weight makes them differ at once, while the reward curve would only look poor.
"""

from typing import NamedTuple

from nanbeige_core.generate.protocol import Engine
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.packing import TrainedResponse, make_batches

PROBE = SamplingConfig(temperature=0, max_new_tokens=8)


class ProbeResult(NamedTuple):
    """The largest difference in nat over the probe's tokens, and how many there were."""

    difference: float
    tokens: int


def compare_engine(engine: Engine, trainer: Trainer, prompt_ids: list[int]) -> ProbeResult:
    """Decode greedily with the engine and score the same tokens with the trainer; collective over all ranks."""
    completion = engine.generate([prompt_ids], PROBE, n=1, seed=0)[0][0]
    response = TrainedResponse(completion.prompt_ids, completion.token_ids, completion.logprobs, 0.0, 0.0)
    (batch,) = make_batches([[response]], 1)
    (logp_BS,) = trainer.log_probs([batch])
    difference_BS = ((logp_BS - batch.extra["gen_BS"]) * batch.loss_mask_BS).abs()
    return ProbeResult(float(difference_BS.max()), len(completion.token_ids))


def require_agreement(engine: Engine, trainer: Trainer, prompt_ids: list[int], *, tolerance: float) -> float:
    """Return the largest difference; raises RuntimeError when it exceeds `tolerance`."""
    result = compare_engine(engine, trainer, prompt_ids)
    if result.difference > tolerance:
        raise RuntimeError(
            f"after syncing weights version {engine.version} the engine's greedy log-probabilities differ from the "
            f"trainer's by {result.difference:.4g} nat over {result.tokens} tokens, expected at most {tolerance}: the "
            "engine holds stale or wrong weights and its rollouts would be off-policy. Check update_weights of the "
            "engine in use; nothing was trained on these weights."
        )
    return result.difference
