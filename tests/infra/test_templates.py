"""Every template in infra/: linted, schema-checked, and consistent with the code it starts."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from nanbeige_core.cluster import Kubernetes
from nanbeige_core.contract import Runtime
from nanbeige_core.launch.job_file import PREEMPTED, JobFile
from nanbeige_core.launch.kubernetes import exit_status, job_name, training_objects
from nanbeige_core.launch.slurm import batch_script
from tests.conftest import ROOT

INFRA = ROOT / "infra"
KUBERNETES = "1.34"


def program(name: str) -> str:
    found = Path(sys.executable).with_name(name)
    assert found.exists(), f"{name} is part of the development requirements"
    return str(found)


def run(*command: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", sorted((INFRA / "docker").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_container_files_pass_their_linter(path: Path) -> None:
    done = run(program("hadolint"), "--no-color", str(path))
    assert done.returncode == 0, done.stdout
    broken = path.read_text().replace("--no-install-recommends", "")
    assert run(program("hadolint"), "-", text=broken).returncode != 0, "the linter looks"


@pytest.mark.parametrize("path", sorted((INFRA / "docker").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_container_files_copy_what_exists_and_the_context_sends_it(path: Path) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (.+) \S+$", path.read_text(), flags=re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in sent, source


def test_the_gpu_versions_agree_with_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    constraints = (ROOT / "requirements/gpu-versions.txt").read_text()
    for line in constraints.splitlines():
        name = re.split(r"[=<>]", line)[0]
        if name in ("megatron-core", "prefect", "vllm", "transformers", "fastapi"):
            assert line in project.replace(" ", ""), line
    assert f"torch=={cpu_pin('torch')}" in constraints


def cpu_pin(name: str) -> str:
    pins = dict(line.split("==") for line in (ROOT / "requirements/cpu.txt").read_text().splitlines() if "==" in line)
    return pins[name]


def test_the_compose_file_follows_its_schema() -> None:
    path = INFRA / "compose.yaml"
    done = run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path))
    assert done.returncode == 0, done.stdout
    content = yaml.safe_load(path.read_text())
    for name, service in content["services"].items():
        assert set(service.get("depends_on", {})) <= set(content["services"]), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} opens {port} to everybody"
    assert not re.search(r"(PASSWORD|SECRET|KEY): (?!\$\{)\S", path.read_text()), "no secret is written into the file"
    named = set(re.findall(r"\$\{(\w+)", path.read_text()))
    assert named == {line.split("=")[0] for line in (INFRA / "example.env").read_text().splitlines() if "=" in line}


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}:{document['kind']}", document)
        for path in sorted((INFRA / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.mark.parametrize(("name", "document"), documents(), ids=[name for name, _ in documents()])
def test_manifests_follow_the_kubernetes_schemas(name: str, document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def job_file(tmp_path: Path, **runtime: Any) -> JobFile:
    work = tmp_path / "fgwsd_warmup" / "0123456789abcdef.work"
    return JobFile(
        stage="fgwsd_warmup",
        uses="fgwsd_warmup",
        config={},
        runtime=Runtime.model_validate(runtime),
        inputs={},
        work=str(work),
        cache=str(tmp_path),
    )


def test_a_stage_becomes_a_valid_kubernetes_job(tmp_path: Path) -> None:
    options = Kubernetes(secret="artifact-store", node_selector={"gpu": "h100"})
    file = job_file(tmp_path, launcher="kubernetes", nodes=4, processes=8, kubernetes=options)
    service, job = training_objects(file)
    for document in (service, job):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert job["spec"]["completions"] == 4
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert f"{job_name(file)}-0.{job_name(file)}:29500" in container["command"][2]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**job, "spec": {**job["spec"], "completions": "four"}}, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (None, None),
        ({"type": "Complete", "status": "True"}, 0),
        ({"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}, 1),
        ({"type": "Failed", "status": "True", "message": "failed with exit code 75 matching FailJob rule"}, PREEMPTED),
    ],
)
def test_a_jobs_conditions_become_an_exit_status(condition: dict[str, str] | None, status: int | None) -> None:
    assert exit_status({"status": {"conditions": [condition] if condition else []}}) == status
    assert exit_status(None) == PREEMPTED


def test_the_work_pool_template_is_whole() -> None:
    template = json.loads((INFRA / "kubernetes/base-job-template.json").read_text())
    jsonschema.Draft202012Validator.check_schema(template["variables"])
    named = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert named == set(template["variables"]["properties"])
    values = {name: entry.get("default", "x") for name, entry in template["variables"]["properties"].items()}
    manifest = filled(template["job_configuration"]["job_manifest"], values)
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] = []  # the worker makes a list of the mapping
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def filled(value: Any, values: dict[str, Any]) -> Any:
    """Put values into a template as a worker does."""
    if isinstance(value, dict):
        return {key: filled(entry, values) for key, entry in value.items()}
    if isinstance(value, list):
        return [filled(entry, values) for entry in value]
    whole = re.fullmatch(r"\{\{ (\w+) \}\}", value) if isinstance(value, str) else None
    return values[whole.group(1)] if whole else value


@pytest.mark.parametrize("path", sorted(INFRA.rglob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_valid_shell(path: Path) -> None:
    assert run("sh", "-n", str(path)).returncode == 0
    assert run("sh", "-n", text=path.read_text() + "\nif true\n").returncode != 0, "the shell looks"


def test_the_slurm_scripts_are_valid_shell_with_known_options(tmp_path: Path) -> None:
    runtime = {
        "launcher": "slurm",
        "nodes": 2,
        "processes": 8,
        "slurm": {"options": ["partition=gpu", "gpus-per-node=8"]},
    }
    script = batch_script(job_file(tmp_path, **runtime))
    for text in (script, (INFRA / "slurm/flow.sbatch").read_text()):
        assert run("bash", "-n", text=text).returncode == 0
        if shutil.which("shellcheck"):
            assert run("shellcheck", "-", text=text).stdout == ""
    given = [line.removeprefix("#SBATCH --") for line in script.splitlines() if "#SBATCH" in line]
    options = {line.partition("=")[0]: line.partition("=")[2] for line in given}
    assert (options["nodes"], options["cpus-per-task"], options["partition"]) == ("2", "8", "gpu")
