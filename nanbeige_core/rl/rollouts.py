"""Roll out only: sample and reward the steps of an RL stage, and keep the rollouts as an artifact.

An RL stage that is given the artifact as its input `rollouts` trains on it instead of sampling (train only). Steps
are committed one by one; a rerun goes on after the last one with the same random numbers.
"""

from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.launch.ranks import barrier, gather_objects, rank, world_size
from nanbeige_core.recipe.configs.rl import RolloutsConfig
from nanbeige_core.rl.rollout_table import (
    FILE,
    describe_sampler,
    policy_name,
    step_file,
    to_rows,
    to_table,
    write_table,
)
from nanbeige_core.rl.source import SampledSource, open_sampling, step_seed
from nanbeige_core.rl.step_log import summarise_rollout


def run(job: Job) -> Outcome:
    """Sample every step from the given checkpoint and write `rollouts.parquet`."""
    config: RolloutsConfig = job.config
    with ExitStack() as opened:
        source = open_sampling(job, opened, config).source
        for step in range(config.steps):
            _roll_out(job, config, source, step)
            job.progress((step + 1) / config.steps, f"{step + 1} of {config.steps} steps sampled")
    return _merge(job, config)


def _roll_out(job: Job, config: RolloutsConfig, source: SampledSource, step: int) -> None:
    path = step_file(job.scratch, step)
    # one rank's look decides, or ranks would disagree about a collective
    if gather_objects(path.exists())[0]:
        return
    rows = to_rows(
        source.groups(step, rank(), world_size()),
        stage=job.stage,
        step=step,
        policy=policy_name(job.inputs["checkpoint"].fingerprint, 0),
        sampler=describe_sampler(config.sampling, step_seed(config.seed, step)),
    )
    everything = [row for part in gather_objects(rows) for row in part]
    if rank() == 0:
        write_table(path, to_table(everything))
    barrier()


def _merge(job: Job, config: RolloutsConfig) -> Outcome:
    paths: list[Path] = [step_file(job.scratch, step) for step in range(config.steps)]
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    if rank() == 0:
        write_table(job.work / FILE, table)
    barrier()
    numbers = summarise_rollout(table, longest=config.sampling.max_new_tokens)
    return Outcome(
        summary=(
            f"{table.num_rows} {config.domain} rollouts of {config.steps} steps: mean reward {numbers['reward']:.3f}, "
            f"{numbers['dead_group_share']:.0%} of the groups have nothing to teach."
        ),
        counts={"rollouts": table.num_rows, "steps": config.steps},
        metrics=numbers,
        tokens=int(numbers["sampled_tokens"]),
    )
