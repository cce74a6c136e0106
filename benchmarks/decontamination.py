"""Precision and recall of decontamination on planted cases.

    python benchmarks/decontamination.py CURATED PROMPTS [--cases 300]

CURATED is the directory of a CuratedCorpus artifact, PROMPTS that of a PromptSet. Evaluation items (held-out and
evaluation prompts, HumanEval) are planted into curated documents: verbatim, with other case and punctuation, on a line
of their own, and only their first half. Documents as they are must not be hit; a pair of sentences that shares the
words of an item in another order must not be either. Prints recall for each way of planting, by length of the item, and
precision over all. Exit status 1 when recall of whole items is below 0.99 or precision below 0.99.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nanbeige_core.data.decontamination import TargetIndex
from nanbeige_core.data.evaluation_items import read_targets
from nanbeige_core.data.hashing import unit_hashes
from nanbeige_core.data.tables import read_rows


def shuffled(text: str) -> str:
    # Chinese has no spaces: its characters are what changes places
    words = re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", text)
    random.Random(len(words)).shuffle(words)
    return " ".join(words)


PLANTS: dict[str, Callable[[str], str]] = {
    "verbatim": lambda item: item,
    "case and punctuation": lambda item: item.upper().replace(",", " ;").replace(".", " . "),
    "own line": lambda item: f"\n{item}\n",
    "first half": lambda item: item[: len(item) // 2],
}


def main() -> None:
    """Plant, look, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("curated", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--cases", type=int, default=300, help="Items planted in each way.")
    parser.add_argument("--ngram", type=int, default=13)
    options = parser.parse_args()
    targets = read_targets(options.prompts)
    index = TargetIndex(targets, options.ngram)
    texts = [row["text"] for row in read_rows(options.curated / "documents", ("text",))]
    rng = random.Random(1)
    found: Counter[tuple[str, str]] = Counter()
    planted: Counter[tuple[str, str]] = Counter()
    items = rng.sample(targets, min(options.cases, len(targets)))
    for name, plant in PLANTS.items():
        for _, item in items:
            host = rng.choice(texts)
            at = rng.randrange(len(host))
            units = len(unit_hashes(item)[0])
            length = "13 and more" if units >= 13 else "8 to 12" if units >= 8 else "below 8"
            planted[name, length] += 1
            found[name, length] += index.find(f"{host[:at]} {plant(item)} {host[at:]}") is not None
    false_hosts = sum(index.find(text) is not None for text in texts)
    false_orders = sum(index.find(shuffled(item)) is not None for _, item in items)
    for (name, length), count in sorted(planted.items()):
        print(f"{name:22} items of {length:12} units: found {found[name, length]:4} of {count:4}")
    negatives = len(texts) + len(items)
    print(f"false hits: {false_hosts} of {len(texts)} documents, {false_orders} of {len(items)} items in another order")
    whole = [key for key in planted if key[0] != "first half" and key[1] != "below 8"]
    hits = sum(found[key] for key in whole)
    recall = hits / sum(planted[key] for key in whole)
    precision = hits / max(1, hits + false_hosts + false_orders)
    print(f"recall of whole items of 8 units or more {recall:.4f}, precision {precision:.4f} ({negatives} negatives)")
    sys.exit(0 if recall >= 0.99 and precision >= 0.99 else 1)


if __name__ == "__main__":
    main()
