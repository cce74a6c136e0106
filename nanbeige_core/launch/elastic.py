"""The agent of torch.distributed's elastic launch on one node, and the ranks it starts.

The agent imports what the ranks need, then forks them, so that N ranks pay for one import. Several nodes run one agent
each; they meet at a rendezvous that node 0 hosts. A lost rank ends the attempt on every node: `execute` starts all
ranks again, `runtime.restarts` times at most. (The agents' own restarts are not used: nodes that count them differently
look for one another under different keys.)
"""

import os
import signal
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from nanbeige_core.launch.job_file import PREEMPTED, JobFile
from nanbeige_core.launch.worker import die_with_parent, run_here
from nanbeige_core.stages import STAGES
from nanbeige_core.stopping import StopRequest

_JOIN_SECONDS = 300


@dataclass(frozen=True)
class Node:
    """This machine's place among the nodes: its number, where all meet, and its own address there."""

    number: int = 0
    rendezvous: str = "localhost:0"
    address: str | None = None


def run_agent(file: JobFile, node: Node | None = None) -> int:
    """Start this node's ranks, wait for them, and return the stage's exit status."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    node = node or Node()
    nodes = file.runtime.nodes
    STAGES[file.uses].function()  # imported before the fork: the ranks inherit it
    import_module("nanbeige_core.launch.ranks")
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=file.runtime.processes,
        run_id=f"{file.stage}-{Path(file.work).name}",
        rdzv_backend="c10d",
        rdzv_endpoint=node.rendezvous,
        rdzv_configs={"join_timeout": _JOIN_SECONDS} | ({"is_host": node.number == 0} if nodes > 1 else {}),
        local_addr=node.address,
        max_restarts=0,
        monitor_interval=0.1,
        start_method=_start_method(),
        log_line_prefix_template=f"[{file.stage}:{node.number}:${{local_rank}}]: ",
    )
    try:
        statuses = elastic_launch(config, _rank_main)(file.model_dump_json(), os.getpid())
    except ChildFailedError:
        return 1
    except SignalException:  # the ranks were told too, and have left their resume point
        return PREEMPTED
    return max(statuses.values())


def _start_method() -> str:
    """Fork on CPU, so ranks share imports; spawn where CUDA must not be inherited."""
    import torch

    return "spawn" if torch.cuda.is_available() else "fork"


def _rank_main(text: str, agent: int) -> int:
    die_with_parent(agent)
    stop = StopRequest()
    signal.signal(signal.SIGTERM, stop)
    import torch
    import torch.distributed as dist

    file = JobFile.model_validate_json(text)
    torch.set_num_threads(file.runtime.threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    status = run_here(file, rank=dist.get_rank(), stop=stop)
    if status not in (0, PREEMPTED):
        raise SystemExit(status)
    if dist.is_initialized():
        dist.destroy_process_group()
    return status
