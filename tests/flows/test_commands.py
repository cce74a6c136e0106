"""The commands as a person or a script sees them: words, JSON, exit status, completion."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from flows import cli
from flows.commands.reference import render_pages
from flows.exit_codes import ExitCode
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.store import Store
from tests.artifacts.making import seal
from tests.conftest import ROOT
from tests.flows.test_pipeline import nanbeige, recipe_file

KEY = "a" * 64


class Answer(NamedTuple):
    status: int
    out: str
    err: str


class Terminal:
    """Runs commands in this process, in a folder of their own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        self.store = Store(folder / "store", folder / "store/.cache")
        patch.chdir(folder)

    def __call__(self, *arguments: str) -> Answer:
        self.patch.setattr(sys, "argv", ["nanbeige", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Answer(int(ended.value.code or 0), *self.capture.readouterr())


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, monkeypatch, capsys)


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(cli.app)
    return group.commands


def test_every_command_takes_json() -> None:
    without = [
        name for name, command in commands().items() if "--json" not in {o for p in command.params for o in p.opts}
    ]
    assert without == []


def test_help_names_every_exit_status(terminal: Terminal) -> None:
    text = terminal("--help").out
    for code in ExitCode:
        assert f"{code.value}: {code.meaning}" in text


def test_gc_keeps_pins_and_deletes_only_when_told(terminal: Terminal) -> None:
    for letter in "ab":
        seal(terminal.store, "ingest", letter * 64, Kind.CORPUS)
    assert terminal("pin", "ingest/aaaa", "--note", "baseline").status == 0
    options = ["--newest", "0", "--age-hours", "0", "--file", str(recipe_file(terminal.folder))]
    shown = json.loads(terminal("gc", *options, "--json").out)
    assert [item["key"] for item in shown["items"] if item["what"] == "artifact"] == ["ingest/bbbbbbbbbbbbbbbb"]
    assert shown["bytes"] > 0
    assert terminal.store.find("ingest", "b" * 64) is not None
    words = terminal("gc", *options, "--delete").out
    assert "freed" in words
    assert terminal.store.find("ingest", "b" * 64) is None
    assert terminal.store.find("ingest", "a" * 64) is not None


def test_gc_stops_at_a_recipe_it_cannot_read(terminal: Terminal) -> None:
    seal(terminal.store, "ingest", KEY, Kind.CORPUS)
    (terminal.folder / "broken.yaml").write_text("stages: [")
    answer = terminal("gc", "--file", "broken.yaml", "--delete", "--newest", "0", "--age-hours", "0")
    assert answer.status == ExitCode.WRONG_REQUEST
    assert terminal.store.find("ingest", KEY) is not None


def test_aliases_are_taken_wherever_an_artifact_is(terminal: Terminal) -> None:
    seal(terminal.store, "ingest", KEY, Kind.CORPUS)
    assert terminal("alias", "best", "ingest").out.strip() == f"@best is ingest/{KEY[:16]}"
    assert json.loads(terminal("show", "@best", "--json").out)["fingerprint"] == KEY
    assert [entry["name"] for entry in json.loads(terminal("pins", "--json").out)] == ["best"]
    assert terminal("alias", "best", "--remove").status == 0
    assert "no alias @best" in terminal("show", "@best").err


def test_verify_looks_at_sizes_and_deep_at_content(terminal: Terminal) -> None:
    manifest = seal(terminal.store, "ingest", KEY, Kind.CORPUS)
    path = terminal.folder / "store" / manifest.reference.address / "documents/part-0.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert terminal("verify").status == ExitCode.DONE
    deep = terminal("verify", "--deep", "--json")
    assert deep.status == ExitCode.FAILED
    assert "documents/part-0.parquet" in json.loads(deep.out)["damaged"][manifest.reference.address]
    path.write_bytes(b"short")
    assert "has 5 bytes" in terminal("verify").out


def test_verify_reports_a_manifest_that_cannot_be_read(terminal: Terminal) -> None:
    manifest = seal(terminal.store, "ingest", KEY, Kind.CORPUS)
    path = terminal.folder / "store" / manifest.reference.address / ".artifact.json"
    path.write_text(path.read_text()[:100])
    answer = terminal("verify")
    assert answer.status == ExitCode.FAILED
    assert "manifest cannot be read" in answer.out


def test_a_failure_is_a_json_document_too(terminal: Terminal) -> None:
    answer = terminal("show", "nothing", "--json")
    assert json.loads(answer.out) == {"error": answer.err.strip().removeprefix("error: "), "exit_status": 1}
    assert terminal("plan", "--profile", "lapto", "--json").status == ExitCode.WRONG_REQUEST


@pytest.mark.slow
def test_doctor_finds_this_machine_ready_and_says_when_it_is_not(terminal: Terminal) -> None:
    answer = terminal("doctor", "--json")
    document = json.loads(answer.out)
    assert (answer.status, document["laptop_can_run"]) == (ExitCode.DONE, True), answer.err
    assert {"device", "code sandbox", "disk", "store", "prefect", "fastapi"} <= {
        finding["subject"] for finding in document["findings"]
    }
    (terminal.folder / "taken").write_text("a file where the store should be")
    broken = terminal("doctor", "--store", "taken")
    assert broken.status == ExitCode.NOT_READY
    assert "laptop profile cannot run here: store" in broken.out


def test_the_committed_reference_is_what_the_code_says() -> None:
    for name, text in render_pages(cli.app).items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"run `nanbeige reference --write` ({name})"


def complete(terminal: Terminal, words: str) -> list[str]:
    """Ask as bash does after TAB behind `words`."""
    with terminal.patch.context() as patch:
        patch.setenv("_NANBEIGE_COMPLETE", "complete_bash")
        patch.setenv("COMP_WORDS", words)
        patch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        with pytest.raises(SystemExit):
            cli.app(prog_name="nanbeige")
    return terminal.capture.readouterr().out.split()


def test_the_shell_completes_stages_profiles_sweeps_overrides_and_artifacts(terminal: Terminal) -> None:
    seal(terminal.store, "ingest", KEY, Kind.CORPUS)
    terminal("alias", "best", "ingest")
    assert complete(terminal, "nanbeige run --only filter_") == [
        "filter_coding",
        "filter_preference",
        "filter_stem",
    ]
    assert complete(terminal, "nanbeige plan --profile l") == ["laptop"]
    assert "dpd-parts" in complete(terminal, "nanbeige sweep dpd")
    assert complete(terminal, "nanbeige plan --set dpd.bet") == ["dpd.beta="]
    assert complete(terminal, "nanbeige show ") == ["@best", "ingest", f"ingest/{KEY[:16]}"]


@pytest.mark.server
def test_a_run_prints_one_json_document(prefect_api: str, tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    run = nanbeige("run", "--only", "ingest", "--file", str(file), "--json", cwd=tmp_path, api=prefect_api)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["executed"] == ["ingest"]
    assert [row["stage"] for row in document["stages"]] == ["ingest"]
    assert "1 of 2 stages to run" in run.stderr
