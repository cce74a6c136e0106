"""Which inspection belongs to which kind of artifact."""

from collections.abc import Callable

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Section
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.inspection.corpora import inspect_corpus, inspect_curated, inspect_tagged
from nanbeige_core.report.inspection.datasets import (
    inspect_mixture,
    inspect_pairs,
    inspect_pass_rates,
    inspect_prompts,
    inspect_sft,
)

Inspection = Callable[[ArtifactFiles, int], list[Section]]

INSPECTIONS: dict[Kind, Inspection] = {
    Kind.CORPUS: inspect_corpus,
    Kind.TAGGED_CORPUS: inspect_tagged,
    Kind.CURATED_CORPUS: inspect_curated,
    Kind.PROMPT_SET: inspect_prompts,
    Kind.SFT_DATASET: inspect_sft,
    Kind.PREFERENCE_PAIRS: inspect_pairs,
    Kind.PASS_RATES: inspect_pass_rates,
    Kind.TOKENIZED_MIXTURE: inspect_mixture,
}


def inspect(store: Store, manifest: Manifest, examples: int = 10) -> list[Section]:
    """Return what is inside a data artifact, with `examples` of each decile or kind; nothing for other kinds.

    Raises ArtifactError when a file of the artifact cannot be read.
    """
    inspection = INSPECTIONS.get(manifest.kind)
    return inspection(ArtifactFiles(store, manifest), examples) if inspection else []
