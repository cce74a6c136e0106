"""`nanbeige rescore`: what today's verifier says about the rollouts of an artifact."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.console import JsonOption, StoreOption, console, open_store, print_rows
from nanbeige_core.errors import ArtifactError

SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(rescore)


def rescore(
    artifact: Annotated[str, typer.Argument(help="Artifact with rollouts: a stage name, stage/prefix or fingerprint.")],
    store: StoreOption = "store",
    workers: Annotated[int, typer.Option("--workers", help="Verifier processes.")] = 2,
    write: Annotated[Path | None, typer.Option("--write", help="Also write the re-scored rollouts here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score an artifact's rollouts again with today's verifier and show every verdict that changed."""
    from nanbeige_core.rl.prompts import load_prompts
    from nanbeige_core.rl.rescore import rescore as score_again
    from nanbeige_core.rl.rollout_table import read_rollouts, to_table, write_table
    from nanbeige_core.rl.scoring import Scorer

    opened = open_store(store)
    manifest = opened.resolve(artifact)
    reference = manifest.inputs.get("problems") or manifest.inputs.get("prompts")
    if reference is None:
        raise ArtifactError(
            f"{manifest.reference.address} was made from neither problems nor prompts, so what its responses should "
            "have answered is not known. Name an artifact of pass_rates, rollouts or an RL stage."
        )
    prompts = {row.id: row for row in load_prompts(opened.local_path(opened.open(reference)[0]))}
    try:
        rollouts = read_rollouts(opened.local_path(manifest))
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    with Scorer(cache=Path(store) / ".cache" if "://" not in store else Path(".cache"), workers=workers) as scorer:
        result = score_again(rollouts, prompts, scorer)
    if write is not None:
        write_table(write, to_table(result.rollouts))
    flips = [
        {
            "prompt": flip.old.prompt_id,
            "response": flip.old.text[-80:],
            "was": f"{flip.old.verdict} ({flip.old.reason})",
            "is": f"{flip.new.verdict} ({flip.new.reason})",
        }
        for flip in result.flips
    ]
    if as_json:
        print(json.dumps({"rollouts": len(rollouts), "kept": result.kept, "flips": flips}, indent=1, default=str))
        return
    console.print(
        f"{manifest.reference.address}: {len(rollouts)} rollouts, {len(rollouts) - result.kept} scored again, "
        f"{len(flips)} verdicts changed"
    )
    print_rows(result.transitions(), "changes")
    print_rows([{key: escape(value) for key, value in flip.items()} for flip in flips[:SHOWN]], "changed verdicts")
