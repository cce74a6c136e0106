"""Open what every sampling stage of RL needs: the policy's engine, prompts that fit it, and who judges responses."""

from contextlib import ExitStack
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job
from nanbeige_core.evals.exact_match import EncodedPrompts, encode_fitting
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.openai_engine import OpenAIEngine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.recipe.configs.rl import Domain, RewardScheme
from nanbeige_core.rl.judge import PairwiseJudge
from nanbeige_core.rl.prompts import STAGE_DOMAINS, load_prompts
from nanbeige_core.rl.rewards import JudgedRewards, Rewarder, VerifiedRewards
from nanbeige_core.rl.scoring import Scorer


class Policy(NamedTuple):
    """The engine that samples from the stage's checkpoint, and its tokenizer."""

    engine: Engine
    tokenizer: PreTrainedTokenizerFast


def open_policy(job: Job) -> Policy:
    """Open the engine of `job.runtime` over the stage's checkpoint."""
    directory = job.inputs["tokenizer"].path
    engine = open_engine(job.inputs["checkpoint"].path, directory, job.runtime)
    return Policy(engine, PreTrainedTokenizerFast.from_pretrained(directory))


def fitting_prompts(job: Job, policy: Policy, domain: Domain, *, max_new_tokens: int, per_step: int) -> EncodedPrompts:
    """Return the stage's training prompts that leave room for a response; raises ValueError for less than a step."""
    rows = load_prompts(job.inputs["prompts"].path, splits={"rl"}, domains=STAGE_DOMAINS[domain])
    prompts = encode_fitting(policy.tokenizer, rows, window=policy.engine.window, max_new_tokens=max_new_tokens)
    if len(prompts.rows) < per_step:
        raise ValueError(
            f"{len(prompts.rows)} prompts of domain {domain} fit the window, expected at least "
            f"{job.stage}.prompts_per_step = {per_step}: a step would repeat a prompt. Lower prompts_per_step, widen "
            "the band of on_policy_filter, or build more problems."
        )
    return prompts


def open_scorer(job: Job, opened: ExitStack, *, agent: str = "") -> Scorer:
    """Open the verifiers, with the model `agent` behind the ladder if one is named; all end with `opened`.

    Raises ValueError when a model is named and the runtime does not say where it is served.
    """
    if not agent:
        return opened.enter_context(
            Scorer(cache=job.cache, workers=job.runtime.threads, sandbox_url=job.runtime.sandbox_url)
        )
    if not job.runtime.verifier_url:
        raise ValueError(
            f"{job.stage}.verifier_agent is {agent!r} but runtime.verifier_url is empty: the agentic verifier asks a "
            "served model. Set runtime.verifier_url to an OpenAI-compatible address ending in /v1, or verifier_agent "
            "to an empty text."
        )
    engine = OpenAIEngine(job.runtime.verifier_url, agent)
    opened.callback(engine.close)
    return opened.enter_context(
        Scorer(cache=job.cache, workers=job.runtime.threads, agent=engine, sandbox_url=job.runtime.sandbox_url)
    )


def open_judge(job: Job) -> PairwiseJudge:
    """Open the pairwise judge; raises ValueError where the stage has none among its inputs."""
    if "reward_model" not in job.inputs:
        raise ValueError(
            f"stage {job.stage} compares open answers but has no input reward_model: they have no gold result to "
            "compare with. Wire the reward_model stage's artifact into its inputs."
        )
    return PairwiseJudge.open(job.inputs["reward_model"].path, job.inputs["tokenizer"].path, job.runtime)


def open_judgement(job: Job, opened: ExitStack, domain: Domain, *, agent: str) -> Scorer | PairwiseJudge:
    """Open what judges the domain's responses: the judge for preferences, verifiers for the rest."""
    return open_judge(job) if domain == "preference" else open_scorer(job, opened, agent=agent)


def make_rewarder(engine: Engine, judgement: Scorer | PairwiseJudge, scheme: RewardScheme, *, seed: int) -> Rewarder:
    """Return verified rewards for a scorer, the group's win probabilities for a judge."""
    if isinstance(judgement, Scorer):
        return VerifiedRewards(engine, judgement)
    return JudgedRewards(engine, judgement, scheme, seed=seed)
