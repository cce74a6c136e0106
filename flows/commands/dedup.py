"""`nanbeige dedup SHARDS`: near-duplicates of any corpus, on this machine, on Ray, or as the ranks of a Slurm array."""

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.console import JsonOption, console, print_json, print_rows
from nanbeige_core.errors import RecipeError
from nanbeige_core.report.counting import count_rows


class Where(StrEnum):
    """Where the tasks of a deduplication run."""

    local = "local"
    ray = "ray"
    array = "array"


class Mode(StrEnum):
    """How candidates are found."""

    lsh = "lsh"
    exact = "exact"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("dedup")(dedup)


def dedup(
    shards: Annotated[list[Path], typer.Argument(help="Parquet or JSONL files.")],
    work: Annotated[Path, typer.Option("--work", help="Empty directory, or that of the same run to go on with.")],
    mode: Annotated[Mode, typer.Option("--mode", help="exact: recall 1, up to about a million documents.")] = Mode.lsh,
    jaccard: Annotated[float, typer.Option("--jaccard", min=0.05, max=1, help="Similarity that removes.")] = 0.8,
    source_cap: Annotated[
        float, typer.Option("--source-cap", min=0, max=1, help="Most of a source that near-duplicates may take.")
    ] = 1.0,
    id_column: Annotated[str, typer.Option("--id", help="Column of the id.")] = "id",
    text_column: Annotated[str, typer.Option("--text", help="Column of the text.")] = "text",
    quality: Annotated[str, typer.Option("--quality", help="Column whose larger value stays; empty: length.")] = "",
    source: Annotated[str, typer.Option("--source", help="Column of the source, for the cap and the counts.")] = "",
    known: Annotated[list[Path] | None, typer.Option("--known", help="Work directory of an earlier run.")] = None,
    executor: Annotated[Where, typer.Option("--executor", help="array: run this in every rank.")] = Where.local,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Threads, or CPUs of Ray; 0: all.")] = 0,
    ray_address: Annotated[
        str, typer.Option("--ray-address", envvar="RAY_ADDRESS", help="Ray cluster; empty: one is started here.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Find duplicates: exact Jaccard decides, the best document stays, each removal leaves evidence in the work dir."""
    from nanbeige_core.data.dedup.candidates import DuplicateIdError
    from nanbeige_core.data.dedup.run import DedupError, deduplicate
    from nanbeige_core.data.dedup.settings import DedupSettings
    from nanbeige_core.data.dedup.shards import Columns
    from nanbeige_core.data.dedup.signatures import SignatureError
    from nanbeige_core.data.executors import ArrayRank, ExecutorError, LocalPool, RayTasks
    from nanbeige_core.data.tables import TableError

    try:
        if executor is Where.array:
            rank, ranks = _array_number("SLURM_ARRAY_TASK_ID"), _array_number("SLURM_ARRAY_TASK_COUNT")
            place = ArrayRank(rank, ranks, job=os.environ.get("SLURM_ARRAY_JOB_ID", ""))
        elif executor is Where.ray:
            # nothing is reported to Ray's makers unless a user asks for it
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            place = RayTasks(ray_address, cpus=workers or None)
        else:
            place = LocalPool(workers) if workers else LocalPool()
        found = deduplicate(
            shards,
            work,
            DedupSettings(mode=mode.value, jaccard=jaccard, source_cap=source_cap),
            columns=Columns(id_column, text_column, quality, source),
            executor=place,
            known=known or (),
        )
    except (DedupError, DuplicateIdError, SignatureError, TableError, ExecutorError, FileNotFoundError) as error:
        raise RecipeError(str(error)) from error
    if as_json:
        print_json(asdict(found) | {"alarms": [alarm._asdict() for alarm in found.alarms]})
        return
    removed = sum(found.removed.values())
    console.print(f"{removed:,} of {found.documents:,} documents are duplicates; evidence in {found.evidence}")
    print_rows(count_rows(found.removed, "reason", "documents"), "removed by reason")
    print_rows(count_rows(found.by_source, "source", "documents"), "removed by source")
    print_rows([alarm._asdict() for alarm in found.alarms], "alarm: sources that lost more than half, or their cap")
    console.print(
        f"{found.candidates:,} documents had a candidate, {found.verified_pairs:,} pairs were verified. Largest "
        f"component: {found.largest_component:,} documents; largest group around one kept: {found.largest_group:,}."
    )


def _array_number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise RecipeError(
            f"{name} is {value!r}, expected a number: --executor array runs inside a Slurm array. Submit with "
            "sbatch --array=0-N, or use --executor local."
        )
    return int(value)
