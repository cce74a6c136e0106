"""How cost grows: plan with stages, store and collection with artifacts, ledger and data stages with documents.

Each is timed at sizes a factor of about three apart; the exponent is the slope of a least-squares line through the
logarithms of size and time, over the upper half of the sizes, where constant cost no longer hides it. 1 is linear.

    python -m benchmarks.growth --largest 100000 --rows 1000000 --texts 1000000 --tokenizer store/tokenizer/*/

`--parts` chooses some of: stages, artifacts, rows, texts. Texts are words drawn by Zipf's law, a tenth of them copies
with a word in twenty changed; tokenising needs a tokenizer, and is left out without one.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from nanbeige_core.artifacts.garbage import collecting, survey
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest
from nanbeige_core.artifacts.references import make_reference
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Outcome
from nanbeige_core.data.dedup.run import deduplicate
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.encoding.bulk import BulkEncoder
from nanbeige_core.data.executors import LocalPool
from nanbeige_core.data.indexed_dataset import write_indexed_dataset
from nanbeige_core.data.sources.path import read_path
from nanbeige_core.lineage.ledger import TRAINED, RowLedger
from nanbeige_core.lineage.trace import trace
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan

Measure = Callable[[Path, int], dict[str, float]]
STAGES = 20
"""Stages over which the artifacts of a store are spread."""
SHARD, WORDS = 50_000, 60
PARTS = ("stages", "artifacts", "rows", "texts")


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the median CPU time of a call: what other programs do does not count."""
    taken: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def wide_and_deep(size: int) -> dict[str, Any]:
    """Return `size` stages: a third reads documents, a third tags them, a third is one chain of checkpoints."""
    source = {"type": "path", "path": "x.jsonl", "category": "web", "language": "en"}
    third = max(size // 3, 2)
    stages: dict[str, Any] = {
        f"s{n}": {"uses": "ingest", "config": {"sources": [source], "seed": n}} for n in range(third)
    }
    stages |= {f"t{n}": {"uses": "quality_tagging", "in": {"corpus": f"s{n}"}} for n in range(third)}
    stages["problems"] = {}
    stages["curated"] = {"uses": "retrieval_dedup", "in": {"tagged": "t0", "problems": "problems"}}
    stages["tokenizer"] = {"in": {"corpus": "curated", "problems": "problems"}}
    stages["mixture"] = {"in": {"corpus": "curated", "problems": "problems", "tokenizer": "tokenizer"}}
    before: dict[str, str] = {}
    for number in range(third):
        uses = "fgwsd_diverse_stable" if before else "fgwsd_warmup"
        config = {"phase": uses.removeprefix("fgwsd_")}
        stages[f"c{number}"] = {"uses": uses, "in": {"mixture": "mixture", **before}, "config": config}
        before = {"checkpoint": f"c{number}"}
    return stages


def measure_plan(folder: Path, size: int) -> dict[str, float]:
    """Load a recipe, plan it against an empty store, and choose what the end of its chain depends on."""
    stages = wide_and_deep(size)
    path = folder / "pipelines.yaml"
    path.write_text(json.dumps({"recipe": "x", "stages": stages, "profiles": {"laptop": {"title": "x"}}}))
    recipe = load_recipe(path, profile="laptop")
    last = f"c{len(stages) // 3 - 2}"
    store = Store(folder / "store", folder / "cache")
    return {
        "load the recipe": seconds(lambda: load_recipe(path, profile="laptop"), 1),
        "plan": seconds(lambda: make_plan(recipe, store), 1),
        "plan --until the end": seconds(lambda: make_plan(recipe, store, Selection(until=last, force=True)), 1),
    }


def fill_store(store: Store, size: int) -> None:
    """Write `size` small artifacts as text: making them is not what is measured.

    Every second stage is one chain, each of its artifacts made from the one before it, so that all of them are needed;
    in the others nothing but the newest is.
    """
    root, locks = Path(store.root), store.lock_directory
    locks.mkdir(parents=True, exist_ok=True)
    for stage in range(STAGES):
        (root / f"stage{stage}").mkdir(parents=True, exist_ok=True)
    texts = {
        named: _manifest(named).model_dump_json().replace(_KEY, "{key}").replace(_BEFORE, "{before}")
        for named in (False, True)
    }
    for number in range(size):
        stage, key, before = f"stage{number % STAGES}", _key(number), number - STAGES
        text = texts[before >= 0 and number % 2 == 0].replace("{key}", key).replace("{before}", _key(max(before, 0)))
        folder = root / stage / key[:16]
        folder.mkdir()
        text = text.replace(_STAGE, stage).replace('"seed":0', f'"seed":{number}')
        (folder / MANIFEST_NAME).write_text(text.replace(".000000", f".{number:06d}"))
        store.lock_path(stage, key).touch()  # as making it leaves


_STAGE, _KEY, _BEFORE = "the-stage", "a" * 64, "b" * 64


def _key(number: int) -> str:
    return f"{number:016x}".ljust(64, "0")


def _manifest(made_from_another: bool) -> Manifest:
    before = make_reference(Kind.CORPUS, stage=_STAGE, fingerprint=_BEFORE, digest="0" * 64)
    return Manifest(
        kind=Kind.CORPUS,
        schema_version=1,
        stage=_STAGE,
        uses="ingest",
        fingerprint=_KEY,
        identity={"config": {"seed": 0}, "inputs": {}},
        inputs={"corpus": before} if made_from_another else {},  # type: ignore[dict-item]
        runtime={},
        files={},
        digest="0" * 64,
        outcome=Outcome(summary="x"),
        code={},
        packages={},
        started="2026-01-01T00:00:00.000000+00:00",
        seconds=1.0,
    )


def measure_store(folder: Path, size: int) -> dict[str, float]:
    """Look one artifact up, plan a stage anew, list all, trace one that ends a chain, and survey what may go."""
    store = Store(folder / "store", folder / "cache")
    fill_store(store, size)
    recipe = folder / "pipelines.yaml"
    source = {"type": "path", "path": "x.jsonl", "category": "web", "language": "en"}
    stages = {"stage1": {"uses": "ingest", "config": {"sources": [source]}}}
    recipe.write_text(json.dumps({"recipe": "x", "stages": stages, "profiles": {"laptop": {"title": "x"}}}))
    loaded = load_recipe(recipe, profile="laptop")
    last = f"stage0/{_key((size - 1) // STAGES * STAGES)[:16]}"

    def collection() -> None:
        with collecting(store):
            survey(store, {}, newest=1, age_seconds=0)

    return {
        "look one artifact up": seconds(lambda: [store.find("stage0", "0" * 64) for _ in range(100)]) / 100,
        "plan a stage that is to be made": seconds(lambda: make_plan(loaded, store), 1),
        "list artifacts": seconds(store.manifests, 1),
        "trace an artifact": seconds(lambda: trace(store, last), 1),
        "survey for collection": seconds(collection, 1),
    }


def measure_rows(folder: Path, size: int) -> dict[str, float]:
    """Read documents, write a ledger of them, and find ten in it."""
    path = folder / "rows.jsonl"
    with path.open("w") as stream:
        stream.writelines(f'{{"text": "document {number} of many"}}\n' for number in range(size))
    ledger = RowLedger.of((f"row-{number}", TRAINED, [number % 97]) for number in range(size))
    wanted = [f"row-{number * (size // 10)}" for number in range(10)]
    return {
        "read documents": seconds(lambda: sum(1 for _ in read_path(path, "text")), 1),
        "write a ledger": seconds(lambda: ledger.write(folder / "ledger.parquet"), 1),
        "trace ten rows": seconds(lambda: RowLedger.read(folder / "ledger.parquet").uses(wanted)),
    }


def write_texts(folder: Path, size: int) -> list[Path]:
    """Write `size` documents of 60 words as shards of at most 50 000."""
    rng = np.random.default_rng(7)
    vocabulary = np.array([f"w{number:x}" for number in range(50_000)])
    shards: list[Path] = []
    for number in range(0, size, SHARD):
        count = min(SHARD, size - number)
        words = (len(vocabulary) ** rng.random((count, WORDS))).astype(np.int64) - 1
        copies = np.arange(9, count, 10)
        words[copies] = words[copies - 1]
        changed = rng.random((len(copies), WORDS)) < 1 / 20
        words[copies] = np.where(changed, rng.integers(0, len(vocabulary), changed.shape), words[copies])
        texts = [" ".join(row) for row in vocabulary[words]]
        shards.append(folder / f"{number // SHARD:05d}.parquet")
        pq.write_table(pa.table({"id": [f"d{number + row}" for row in range(count)], "text": texts}), shards[-1])
    return shards


def measure_texts(tokenizer: Path | None) -> Measure:
    """Return what deduplicates documents both ways and tokenises them into an indexed dataset."""

    def measure(folder: Path, size: int) -> dict[str, float]:
        shards = write_texts(folder, size)
        found: dict[str, float] = {}
        for mode in ("lsh", "exact"):
            settings, work = DedupSettings(mode=mode), folder / mode
            pool = LocalPool(workers=2)
            found[f"deduplicate, {mode}"] = seconds(
                lambda settings=settings, work=work, pool=pool: deduplicate(shards, work, settings, executor=pool), 1
            )
        if tokenizer is not None:
            encoder = BulkEncoder(Tokenizer.from_file(str(tokenizer / "tokenizer.json")))
            found["tokenise"] = seconds(lambda: tokenise(encoder, shards), 1)
        return found

    return measure


def tokenise(encoder: BulkEncoder, shards: list[Path]) -> None:
    """Encode shard by shard and write each as an indexed dataset, as the mixture does."""
    for shard in shards:
        encoded = encoder.encode(pq.read_table(shard, columns=["text"])["text"].to_pylist())
        prefix = shard.with_suffix("")
        write_indexed_dataset(prefix, [encoded.tokens], encoder.tokenizer.get_vocab_size(), lengths=encoded.lengths)


def sizes(smallest: int, largest: int) -> list[int]:
    """Return sizes a factor of about three apart."""
    steps = max(round(2 * math.log10(largest / smallest)), 2)
    return [round(smallest * (largest / smallest) ** (step / steps)) for step in range(steps + 1)]


def exponent(points: dict[int, float]) -> float:
    """Return the growth exponent over the upper half of the sizes."""
    upper = sorted(points)[len(points) // 2 :] if len(points) > 3 else sorted(points)
    return float(np.polyfit(np.log(upper), np.log([max(points[size], 1e-6) for size in upper]), 1)[0])


def grow(measure: Measure, counts: list[int]) -> dict[str, dict[int, float]]:
    """Return for each thing measured: size -> seconds."""
    found: dict[str, dict[int, float]] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            for name, taken in measure(Path(folder), count).items():
                found.setdefault(name, {})[count] = taken
    return found


def main() -> None:
    """Measure, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=1000, help="largest recipe")
    parser.add_argument("--largest", type=int, default=10_000, help="most artifacts in a store")
    parser.add_argument("--rows", type=int, default=1_000_000, help="most documents")
    parser.add_argument("--texts", type=int, default=100_000, help="most documents to deduplicate and tokenise")
    parser.add_argument("--tokenizer", type=Path, default=None, help="a Tokenizer artifact")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    parts: dict[str, tuple[str, Measure, list[int]]] = {
        "stages": ("stages", measure_plan, sizes(10, given.stages)),
        "artifacts": ("artifacts", measure_store, sizes(100, given.largest)),
        "rows": ("documents", measure_rows, sizes(1000, given.rows)),
        "texts": ("documents", measure_texts(given.tokenizer), sizes(1000, given.texts)),
    }
    print("| what | grows with | sizes | CPU seconds | exponent |\n| --- | --- | --- | --- | ---: |")
    for unit, measure, counts in (parts[name] for name in given.parts):
        for name, points in grow(measure, counts).items():
            taken = ", ".join(f"{points[size]:.3g}" for size in counts)
            print(f"| {name} | {unit} | {', '.join(map(str, counts))} | {taken} | {exponent(points):.2f} |", flush=True)


if __name__ == "__main__":
    main()
