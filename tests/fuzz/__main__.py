"""Coverage-guided fuzzing of one parser for a bounded time: `python -m tests.fuzz PARSER --seconds 60`.

Needs atheris (`pip install atheris`; wheels for Linux). A finding ends the run with its traceback and its bytes.
"""

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

atheris: Any = import_module("atheris")

with atheris.instrument_imports(include=["nanbeige_core"]):
    from tests.fuzz.parsers import PARSERS, dictionary, feed


def main() -> None:
    """Fuzz until the time is over or something is found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parser", choices=list(PARSERS))
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(PARSERS[given.parser].seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    entries = ("".join(f"\\x{byte:02x}" for byte in word) for word in dictionary())
    words.write_text("".join(f'"{entry}"\n' for entry in entries))
    limits = [f"-max_total_time={given.seconds}", "-max_len=2000", "-timeout=20", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *limits, f"-dict={words}", str(corpus)], lambda data: feed(given.parser, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
