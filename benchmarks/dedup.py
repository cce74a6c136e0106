"""Near-duplicate removal against datatrove, datasketch, text-dedup, rensa and Daft, on documents with planted twins.

    python benchmarks/dedup.py [--documents 300000] [--slow-documents 100000] [--runs 3] [--peers VENV/bin/python ...]

Each side runs as a process of its own, imports included, on the same Parquet files, so what is compared is documents
per CPU-second (user and system time of the process tree). Truth is every pair of documents with word 5-gram Jaccard of
at least 0.8. Reported are: documents removed, those of them without any kept twin (lost), removal recall (removed
documents that had to go, over those and the ones that an exact pass would still remove), and peak memory. The slow
peers run on fewer documents, beside this project on the same ones; what a further document takes follows from both
sizes. `daft` is what Daft's own example does, components included; `daft_short` leaves these to a loop in Python. Exit
status 1 when a goal of the project is missed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from dedup_corpus import build, check_pairs, exact_pairs
from measured import measure_command
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SLOW = {"datatrove": 40.0, "text_dedup": 20.0}
FAST = {"rensa": 4.0, "daft": 3.0, "daft_short": 0.0, "datasketch": 20.0}
"""Peer and how many times its documents per CPU-second are the goal; 0 is none."""
PACKAGES = {"daft_short": "daft"}
"""Peers that are not called as their package is."""

console = Console(width=150)


@dataclass(frozen=True)
class Truth:
    ids: list[str]
    pairs: NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    name: str
    cpu_seconds: float
    megabytes: float
    kept: set[str]


@dataclass(frozen=True)
class Compared:
    """Whether every goal was reached on a corpus, its documents, and the CPU time of each side."""

    reached: bool
    documents: int
    cpu_seconds: dict[str, float]


def measure(name: str, command: list[str], out: Path, runs: int) -> Run:
    """Run a side several times and return the run of median CPU time."""
    times: list[float] = []
    largest = 0.0
    for _ in range(runs):
        for leftover in (out, out.with_suffix(".work")):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        with out.with_suffix(".log").open("w") as log:
            taken = measure_command(command, environment=os.environ | {"PYTHONPATH": str(HERE.parent)}, log=log)
        if taken is None:
            raise SystemExit(f"{name} failed: {out.with_suffix('.log').read_text()[-2000:]}")
        times.append(taken.cpu_seconds)
        largest = max(largest, taken.megabytes)
    return Run(name, statistics.median(times), largest, set(out.read_text().split()))


def prepare(corpus: Path, documents: int, shards: int) -> None:
    """Build a corpus and every pair of twins in it, unless it is there."""
    if not (corpus / f"{shards - 1:03d}.parquet").exists():
        (corpus / "pairs.npy").unlink(missing_ok=True)
        build(corpus, documents, shards)
    if not (corpus / "pairs.npy").exists():
        texts = (pq.read_table(file, columns=["text"])["text"].to_pylist() for file in sorted(corpus.glob("*.parquet")))
        pairs, sets = exact_pairs([text for part in texts for text in part])
        check_pairs(pairs, sets)
        np.save(corpus / "pairs.npy", pairs)


def truth_of(corpus: Path) -> Truth:
    """Return the ids of a corpus in order, and its pairs of twins."""
    tables = [pq.read_table(file, columns=["id"]) for file in sorted(corpus.glob("*.parquet"))]
    return Truth([name for table in tables for name in table["id"].to_pylist()], np.load(corpus / "pairs.npy"))


def judge(run: Run, truth: Truth) -> dict[str, float]:
    """Count what a run removed, what it lost, and what it left."""
    kept = np.array([name in run.kept for name in truth.ids])
    twin_kept = np.zeros(len(kept), bool)
    for a, b in (truth.pairs.T, truth.pairs.T[::-1]):
        twin_kept[a[kept[b]]] = True
    removed = ~kept
    valid = int((removed & twin_kept).sum())
    left: set[int] = set()
    for a, b in truth.pairs[kept[truth.pairs].all(axis=1)].tolist():
        if a not in left and b not in left:
            left.add(b)
    return {
        "removed": int(removed.sum()),
        "lost": int((removed & ~twin_kept).sum()),
        "recall": valid / max(1, valid + len(left)),
    }


def ours(mode: str, corpus: Path, out: Path) -> None:
    """One run of this project as its own process: resume files and evidence included."""
    from nanbeige_core.data.dedup.run import deduplicate
    from nanbeige_core.data.dedup.settings import DedupSettings
    from nanbeige_core.data.dedup.shards import Columns

    shards = sorted(corpus.glob("*.parquet"))
    columns = Columns(quality="quality")
    result = deduplicate(shards, out.with_suffix(".work"), DedupSettings(mode=mode), columns=columns)
    removed = result.removed_ids()
    ids = (name for shard in shards for name in pq.ParquetFile(shard).read(["id"])["id"].to_pylist())
    out.write_text("\n".join(name for name in ids if name not in removed) + "\n")
    print(result)


def find_peers(pythons: list[str]) -> dict[str, str]:
    """Return the Python to run each peer with: the first that has it; a peer that none has is left out."""
    found: dict[str, str] = {}
    for peer in (*SLOW, *FAST):
        package = PACKAGES.get(peer, peer)
        check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        for python in pythons:
            if subprocess.run([python, "-c", check], check=False).returncode == 0:
                found.setdefault(peer, python)
        if pythons and peer not in found:
            console.print(f"{peer} is in none of the environments and left out.")
    return found


def compare(
    corpus: Path,
    goals: dict[str, float],
    pythons: dict[str, str],
    runs: int,
    modes: tuple[str, ...],
    peer_runs: int,
) -> Compared:
    """Measure both sides on one corpus and print the table; a goal of 0 is none."""
    peers = {peer: goal for peer, goal in goals.items() if peer in pythons}
    script = str(HERE / "dedup.py")
    measured = [
        measure(
            f"this project, {mode}", [sys.executable, script, "--side", mode, str(corpus)], corpus / f"{mode}.out", runs
        )
        for mode in modes
    ]
    measured += [
        measure(
            peer,
            [pythons[peer], str(HERE / "dedup_peers.py"), peer, str(corpus), str(corpus / f"{peer}.out")],
            corpus / f"{peer}.out",
            1 if peer in SLOW else peer_runs,
        )
        for peer in peers
    ]
    truth = truth_of(corpus)
    table = Table(title=f"{len(truth.ids):,} documents, {len(truth.pairs):,} pairs with Jaccard >= 0.8")
    for column in ("", "CPU s", "documents/CPU s", "ours is faster by", "goal", "peak MB", "removed", "lost", "recall"):
        table.add_column(column, justify="left" if not column else "right")
    reached = True
    for run in measured:
        found = judge(run, truth)
        ratio, goal = run.cpu_seconds / measured[0].cpu_seconds, peers.get(run.name)
        exact = run.name.endswith("exact")
        if run.name in peers:
            reached &= ratio >= peers[run.name]
        else:
            reached &= found["lost"] == 0 and found["recall"] >= (1.0 if exact else 0.985)
        table.add_row(
            run.name, f"{run.cpu_seconds:.1f}", f"{len(truth.ids) / run.cpu_seconds:,.0f}", f"{ratio:.1f}x",
            f"{goal:.0f}x" if goal else "", f"{run.megabytes:,.0f}", f"{found['removed']:,}",
            f"{found['lost']:,} ({found['lost'] / max(1, found['removed']):.0%})", f"{found['recall']:.4f}",
        )  # fmt: skip
    console.print(table)
    return Compared(reached, len(truth.ids), {run.name: run.cpu_seconds for run in measured})


def print_further(small: Compared, large: Compared) -> None:
    """Print what each further document takes, from two sizes: imports and the start of the kernels fall out."""
    further = {
        name: (seconds - small.cpu_seconds[name]) / (large.documents - small.documents)
        for name, seconds in large.cpu_seconds.items()
        if name in small.cpu_seconds
    }
    table = Table(title=f"from {small.documents:,} to {large.documents:,} documents")
    for column in ("", "CPU microseconds a further document", "ours is faster by"):
        table.add_column(column, justify="left" if not column else "right")
    first = next(iter(further.values()))
    for name, seconds in further.items():
        table.add_row(name, f"{1e6 * seconds:.0f}", f"{seconds / first:.1f}x")
    console.print(table)


def main() -> None:
    """Build the corpora, measure, and say whether the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--slow-documents", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-runs", type=int, default=1, help="Runs of each fast peer; the slow ones run once.")
    parser.add_argument("--peers", nargs="*", default=[], help="Pythons that have the peers; without one only ours.")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "nanbeige-dedup-benchmark")
    parser.add_argument("--prepare", action="store_true", help="Only build the corpus of --documents and its pairs.")
    parser.add_argument("--side", nargs=2, metavar=("MODE", "CORPUS"), help="One run of this project (internal).")
    options = parser.parse_args()
    if options.side:
        mode, corpus = options.side[0], Path(options.side[1])
        ours(mode, corpus, corpus / f"{mode}.out")
        return
    small, large = options.folder / str(options.slow_documents), options.folder / str(options.documents)
    if options.prepare:
        prepare(large, options.documents, 8)
        return
    for count in (options.slow_documents, options.documents):
        # in a process of its own, so that a corpus is never held beside what is measured
        size = ["--documents", str(count), "--folder", str(options.folder)]
        subprocess.run([sys.executable, str(HERE / "dedup.py"), "--prepare", *size], check=True)
    pythons = find_peers(options.peers)
    many = compare(large, FAST, pythons, options.runs, ("lsh", "exact"), options.peer_runs)
    few = compare(small, SLOW | dict.fromkeys(FAST, 0.0), pythons, options.runs, ("lsh",), options.peer_runs)
    print_further(few, many)
    sys.exit(0 if many.reached and few.reached else 1)


if __name__ == "__main__":
    main()
