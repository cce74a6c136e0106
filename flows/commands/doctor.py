"""`nanbeige doctor`: what is installed, what is missing, and how to mend it."""

import socket
from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from flows.console import JsonOption, StoreOption, console, open_store, print_json, words_aside
from flows.exit_codes import ExitCode
from flows.parameters import ROOT
from nanbeige_core.doctor.finding import Finding

_STYLES = {"ok": "green", "note": "yellow", "problem": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """Say what this machine has and lacks, found out by trying, and how to mend it.

    Exit status 3 when the laptop profile could not run.
    """
    with words_aside(as_json):
        findings = examine(store)
        for finding in findings:
            style = _STYLES[finding.level]
            console.print(
                f"[{style}]{finding.level:<8}[/{style}]{finding.subject}: {escape(finding.found)}", highlight=False
            )
            if finding.remedy and finding.level != "ok":
                console.print(f"        -> {escape(finding.remedy)}", highlight=False)
        problems = [finding for finding in findings if finding.level == "problem"]
        verdict = "can run here" if not problems else f"cannot run here: {', '.join(f.subject for f in problems)}"
        console.print(f"the laptop profile {verdict}", highlight=False)
    if as_json:
        print_json({"laptop_can_run": not problems, "findings": [asdict(finding) for finding in findings]})
    if problems:
        raise typer.Exit(ExitCode.NOT_READY)


def examine(store: str) -> list[Finding]:
    """Return every finding; packages first, so that what fails for want of one is explained before it fails."""
    from nanbeige_core.doctor import machine, packages

    opened = open_store(store)
    local = Path(opened.root) if opened.is_local else opened.cache
    findings = [packages.check_python(), *packages.check_packages(ROOT), packages.check_vllm()]
    findings += [machine.check_cores(), machine.check_memory(), machine.check_disk(local), machine.check_locks(local)]
    findings += [*machine.check_device(), machine.check_sandbox(opened.cache)]
    findings += [*machine.check_sources(opened.cache), machine.check_programs(), check_port()]
    return findings


def check_port() -> Finding:
    """Say whether the Prefect server's usual port is free; another one is chosen where it is not."""
    from flows.server import DEFAULT_PORT

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            found = f"{DEFAULT_PORT} is in use (by `nanbeige up`, or by another program)"
            return Finding(
                "port", "note", found, "runs find `nanbeige up` by themselves and else take a free port; --port chooses"
            )
    return Finding("port", "ok", f"{DEFAULT_PORT} is free for the Prefect server")
