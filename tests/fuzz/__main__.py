"""Coverage-guided fuzzing of the parsers of untrusted bytes for a bounded time: `python -m tests.fuzz --seconds 60`.

Needs atheris (`make fuzz` installs it aside; wheels for Linux). The parsers that are named, or all, in turn, each in a
process of its own. A finding ends a parser's run with its traceback and its bytes; the exit status is 1 then.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one parser until the time is over or something is found; does not return."""
    atheris: Any = import_module("atheris")
    with atheris.instrument_imports(include=["nanbeige_core"]):
        parsers = import_module("tests.fuzz.parsers")
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(parsers.PARSERS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    entries = ("".join(f"\\x{byte:02x}" for byte in word) for word in parsers.dictionary())
    words.write_text("".join(f'"{entry}"\n' for entry in entries))
    limits = [f"-max_total_time={seconds}", "-max_len=2000", "-timeout=20", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *limits, f"-dict={words}", str(corpus)], lambda data: parsers.feed(name, data))
    atheris.Fuzz()


def fuzz_each(names: list[str], seconds: int) -> int:
    """Fuzz parsers in turn, each in a process of its own, print what was run, and return 1 when anything was found."""
    found = 0
    print("| parser | inputs | branches reached | found |\n| --- | ---: | ---: | --- |")
    for name in names:
        command = [sys.executable, "-m", "tests.fuzz", name, "--here", "--seconds", str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        inputs = re.findall(r"^#(\d+)\s", done.stderr, re.MULTILINE)[-1:] or ["0"]
        reached = re.findall(r"cov: (\d+)", done.stderr)[-1:] or ["0"]
        outcome = "nothing" if done.returncode == 0 else f"status {done.returncode}"
        print(f"| {name} | {inputs[0]} | {reached[0]} | {outcome} |", flush=True)
        if done.returncode:
            found = 1
            print(done.stdout[-2000:] + done.stderr[-3000:], file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Fuzz the parsers that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parsers", nargs="*", help="Of tests/fuzz/parsers.py; default: all.")
    parser.add_argument("--here", action="store_true", help="Fuzz the one parser in this process.")
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    if given.here:
        fuzz(given.parsers[0], given.seconds)
    return fuzz_each(given.parsers or list(import_module("tests.fuzz.parsers").PARSERS), given.seconds)


if __name__ == "__main__":
    sys.exit(main())
