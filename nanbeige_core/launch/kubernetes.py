"""Run a stage as a Kubernetes Indexed Job: one pod for each node, on a volume that they share with the flow.

Objects are applied through `kubectl`, which finds the cluster and its credentials as it does for a person.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from nanbeige_core.errors import StageError
from nanbeige_core.launch.job_file import PREEMPTED, JobFile

_POLL_SECONDS = 3.0
_PORT = 29500


def training_objects(file: JobFile) -> list[dict[str, Any]]:
    """Return a headless Service, by which pods find one another, and the Job.

    Exit status 75 (preempted, resume point left) fails the Job at once without using up its retries: the flow decides
    what comes next. A pod that a drained node evicts is not counted as a failure either, and all pods start again.
    """
    runtime, options = file.runtime, file.runtime.kubernetes
    name = job_name(file)
    labels = {"app.kubernetes.io/name": "nanbeige-recipe", "app.kubernetes.io/instance": name}
    node = f'--node "$JOB_COMPLETION_INDEX" --rendezvous {name}-0.{name}:{_PORT} --address "$(hostname -f)"'
    container: dict[str, Any] = {
        "name": "stage",
        "image": options.image,
        "command": ["bash", "-c", f'exec python -m nanbeige_core.launch.node "$0" {node}', str(file.path)],
        "ports": [{"name": "rendezvous", "containerPort": _PORT}],
        "resources": {"limits": _resources(file), "requests": _resources(file)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "work", "mountPath": options.mount_path},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    if options.secret:
        container["envFrom"] = [{"secretRef": {"name": options.secret}}]
    pod = {
        "subdomain": name,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": max(int(runtime.stop_seconds), 1),
        "nodeSelector": dict(options.node_selector),
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": options.claim}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    policy = {
        "rules": [
            {"action": "FailJob", "onExitCodes": {"containerName": "stage", "operator": "In", "values": [PREEMPTED]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
    }
    job = {
        "completions": runtime.nodes,
        "parallelism": runtime.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": 3600,
        "podFailurePolicy": policy,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    metadata = {"name": name, "namespace": options.namespace, "labels": labels}
    service: dict[str, Any] = {
        "clusterIP": "None",
        "selector": labels,
        "publishNotReadyAddresses": True,
        "ports": [{"name": "rendezvous", "port": _PORT}],
    }
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job},
    ]


def _resources(file: JobFile) -> dict[str, str]:
    runtime, options = file.runtime, file.runtime.kubernetes
    wanted = {"cpu": str(runtime.processes * runtime.threads), "memory": options.memory}
    return wanted | ({"nvidia.com/gpu": str(runtime.processes)} if options.gpus else {})


def job_name(file: JobFile) -> str:
    """Return a name that Kubernetes takes (63 letters, digits and dashes), the same for a stage and its fingerprint."""
    key = file.work.rstrip("/").rsplit("/", 1)[-1].removesuffix(".work")
    plain = "".join(letter if letter.isalnum() else "-" for letter in file.stage.lower()).strip("-")
    return f"{plain[:40]}-{key[:16]}"


class KubernetesJob:
    """A Job in a cluster as a worker process."""

    def __init__(self, file: JobFile) -> None:
        self.returncode: int | None = None
        self._stage = file.stage
        self._name, self._namespace = job_name(file), file.runtime.kubernetes.namespace
        self._delete()  # of an earlier attempt
        objects = {"apiVersion": "v1", "kind": "List", "items": training_objects(file)}
        done = self._kubectl(["apply", "--filename", "-"], input=json.dumps(objects))
        if done.returncode != 0:
            raise StageError(f"stage {file.stage}: Kubernetes refused the job: {done.stderr.strip()}")
        self._asked = 0.0

    def poll(self) -> int | None:
        """Return the exit status once the Job is complete or has failed."""
        if self.returncode is None and time.monotonic() - self._asked >= _POLL_SECONDS:
            self._asked = time.monotonic()
            done = self._kubectl(["get", "job", self._name, "--output", "json", "--ignore-not-found"])
            if done.returncode == 0:
                self.returncode = exit_status(json.loads(done.stdout) if done.stdout.strip() else None)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Delete the Job: its pods get SIGTERM and their grace period."""
        if self.returncode is None:
            self._delete(wait=False)

    def kill(self) -> None:
        """Delete the Job without a grace period."""
        self._delete(["--grace-period=0", "--force"])

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"job {self._name}", timeout or 0.0)
            time.sleep(0.5)
        return status

    def _delete(self, more: Sequence[str] = (), *, wait: bool = True) -> None:
        what = ["job,service", self._name, "--ignore-not-found", f"--wait={'true' if wait else 'false'}"]
        self._kubectl(["delete", *what, "--cascade=foreground", *more])

    def _kubectl(self, arguments: list[str], *, input: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = ["kubectl", "--namespace", self._namespace, *arguments]
        try:
            return subprocess.run(command, input=input, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise StageError(
                f"stage {self._stage}: runtime.launcher is kubernetes, but kubectl is not on this machine."
            ) from error


def exit_status(job: dict[str, Any] | None) -> int | None:
    """Return the worker's exit status from a Job object, None while it runs; a Job that is gone was stopped."""
    if job is None:
        return PREEMPTED
    for condition in job.get("status", {}).get("conditions", []):
        if condition["status"] == "True" and condition["type"] == "Complete":
            return 0
        if condition["status"] == "True" and condition["type"] == "Failed":
            # the failure policy's own words: "... with exit code 75 matching FailJob rule ..."
            return PREEMPTED if f"exit code {PREEMPTED} " in condition.get("message", "") else 1
    return None
