"""One node's agent of a stage that spans several: `python -m nanbeige_core.launch.node JOBFILE --node N ...`.

Every node runs this with the same job file, on a file system they share; node 0 hosts the rendezvous.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from nanbeige_core.launch.elastic import Node, run_agent
from nanbeige_core.launch.job_file import JobFile, write_json
from nanbeige_core.launch.worker import set_threads, used_resources


def main(arguments: list[str]) -> int:
    """Run this node's ranks and return the exit status."""
    parser = argparse.ArgumentParser(prog="nanbeige_core.launch.node")
    parser.add_argument("job", type=Path)
    parser.add_argument("--node", type=int, required=True, help="This node's number, 0 hosts the rendezvous.")
    parser.add_argument("--rendezvous", required=True, help="host:port of node 0.")
    parser.add_argument("--address", default=None, help="This node's address, where its host name is not enough.")
    parser.add_argument("--interface", default="", help="Network interface for collectives.")
    parser.add_argument("--tied", action="store_true", help="End when standard input closes.")
    given = parser.parse_args(arguments)
    if given.tied:
        threading.Thread(target=_end_with_input, daemon=True).start()
    file = JobFile.model_validate_json(given.job.read_text(encoding="utf-8"))
    set_threads(file.runtime.threads)
    if given.interface:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = given.interface
    try:
        return run_agent(file, Node(given.node, given.rendezvous, given.address))
    finally:
        if given.node == 0:
            write_json(file.control / "resources.json", used_resources())


def _end_with_input() -> None:
    """Kill this agent when whoever started it is gone; the kernel kills its ranks with it."""
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
