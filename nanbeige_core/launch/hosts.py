"""Start a stage on several hosts, each reached by a command such as `ssh node-1`.

The hosts share the file system that holds the work directory, and have this package installed at the same place.
"""

import shlex
import signal
import subprocess
import sys
import time
from typing import IO

from nanbeige_core.launch.job_file import PREEMPTED, JobFile


class HostGroup:
    """The agents of all nodes as one worker: it ends when all have ended, and when one fails the others are stopped."""

    def __init__(self, file: JobFile) -> None:
        self.returncode: int | None = None
        self._failed: int | None = None
        self._grace = file.runtime.stop_seconds
        with file.log.open("wb") as log:
            self._nodes = [self._start(file, number, log) for number in range(file.runtime.nodes)]

    @staticmethod
    def _start(file: JobFile, number: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        hosts = file.runtime.hosts
        host = hosts.reach[number]
        command = [
            *shlex.split(host.command),
            sys.executable,
            "-m",
            "nanbeige_core.launch.node",
            str(file.path),
            "--tied",
        ]
        command += ["--node", str(number), "--rendezvous", hosts.rendezvous]
        command += ["--address", host.address] if host.address else []
        command += ["--interface", hosts.interface] if hosts.interface else []
        # the pipe is held, never written: it closes when this process dies, and the node with it
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)

    @property
    def pids(self) -> list[int]:
        """Return the process ids of the nodes' agents on this machine."""
        return [node.pid for node in self._nodes]

    def poll(self) -> int | None:
        """Return the exit status when every node has ended; stop the others as soon as one has failed."""
        if self.returncode is None:
            statuses = [node.poll() for node in self._nodes]
            failed = [status for status in statuses if status not in (None, 0, PREEMPTED)]
            if failed and self._failed is None:
                # what failed first is the group's status: how the others end when stopped says nothing
                self._failed = failed[0]
                self._stop_all()
                statuses = [node.poll() for node in self._nodes]
            ended = [status for status in statuses if status is not None]
            if len(ended) == len(statuses):
                self.returncode = max(ended) if self._failed is None else self._failed
        return self.returncode

    def _stop_all(self) -> None:
        deadline = time.monotonic() + self._grace
        self.send_signal(signal.SIGTERM)
        for node in self._nodes:
            try:
                node.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()

    def send_signal(self, sig: int) -> None:
        """Send a signal to every node's agent; those that are not local have their pipe closed by `kill`."""
        for node in self._nodes:
            node.send_signal(sig)

    def kill(self) -> None:
        """Kill every agent; closing its pipe ends one behind a connection."""
        for node in self._nodes:
            if node.stdin is not None:
                node.stdin.close()
            node.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of all nodes; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("nodes", timeout or 0.0)
            time.sleep(0.1)
        return status
