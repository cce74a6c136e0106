"""The ledger of a phase against the batches the phase really reads."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nanbeige_core.data.mixture import SIDECAR_SCHEMA
from nanbeige_core.data.tables import write_rows
from nanbeige_core.megatron.blend import Blend, BlendedSource, Mixture
from nanbeige_core.megatron.phase_ledger import PHASE_LEDGER, PhaseLedger, PhasePlanned
from nanbeige_core.megatron.pretrain import open_phase
from nanbeige_core.recipe.configs.pretrain import AbfConfig, FgwsdConfig, Phase, PhaseTokens
from tests.megatron.conftest import write_mixture

SETS = ("hq-code", "mq-web")


def mixture(tmp_path: Path) -> Path:
    """Write the tokens-tell-the-document mixture of the Megatron tests, with its sidecar."""
    directory = write_mixture(tmp_path / "mixture")
    opened = Mixture.open(directory)
    rows = [
        {"set": name, "index": index, "document_id": f"{name}/{index}", "tokens": int(length)}
        for name in SETS
        for index, length in enumerate(opened.stream(name, seed=0).lengths)
    ]
    write_rows(directory / "sidecar.parquet", SIDECAR_SCHEMA, rows)
    return directory


def source(directory: Path, phase: Phase, begins: dict[str, int], blend: Any = "fine_grained") -> BlendedSource:
    config = FgwsdConfig(
        phase=phase,
        blend=blend,
        phase_tokens=PhaseTokens(warmup=128, diverse_stable=1280, hq_stable=640, decay=2560),
        sequence_length=16,
        global_batch_size=4,
        abf=AbfConfig(theta=1e6, sequence_length=32, fraction=0.4),
        validation_sequences=4,
    )
    return open_phase(config, Mixture.open(directory), begins).source


def read_batches(blended: BlendedSource) -> tuple[dict[str, list[int]], Counter[str]]:
    """Read every batch of a phase; return at which steps each document was in one, and how many of its tokens."""
    steps: dict[str, list[int]] = {}
    tokens: Counter[str] = Counter()
    for step in range(blended.plan.steps):
        span, positions = blended.step_samples(step)
        for position in positions:
            stream = blended.streams[position.set]
            stop = position.token + span.sequence_length
            for document in set(stream.documents_between(position.token, stop)):
                steps.setdefault(f"{stream.name}/{document}", []).append(step + 1)
            for place in range(position.token, stop):
                tokens[f"{stream.name}/{stream.documents_between(place, place + 1)[0]}"] += 1
    return steps, tokens


@pytest.mark.parametrize(
    ("phase", "blend", "pattern"),
    [
        ("diverse_stable", "fine_grained", 2**20),
        ("decay", "fine_grained", 2**20),
        ("decay", "even", 2**20),
        ("diverse_stable", "even", 7),
    ],
)
def test_the_ledger_names_exactly_the_documents_of_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase, blend: str, pattern: int
) -> None:
    monkeypatch.setattr(Blend, "PATTERN", pattern)
    directory = mixture(tmp_path)
    blended = source(directory, phase, {"hq-code": 333, "mq-web": 77}, blend)
    steps, tokens = read_batches(blended)
    ledger = PhaseLedger(blended.planned(), directory)
    found = {use.id: use for use in ledger.everything()}
    assert set(found) == set(steps)
    assert {key: (use.first_step, use.last_step) for key, use in found.items()} == {
        key: (min(taken), max(taken)) for key, taken in steps.items()
    }
    assert {key: int(use.note.split()[0]) for key, use in found.items()} == tokens
    assert max(use.times for use in found.values()) > 1  # the sets are smaller than the phase: epochs repeat


def test_asking_for_one_document_gives_what_everything_holds(tmp_path: Path) -> None:
    directory = mixture(tmp_path)
    ledger = PhaseLedger(source(directory, "decay", {}).planned(), directory)
    for use in list(ledger.everything())[::7]:
        assert ledger.uses([use.id]) == [use]


def test_a_document_that_no_step_drew_has_no_use(tmp_path: Path) -> None:
    directory = mixture(tmp_path)
    ledger = PhaseLedger(source(directory, "warmup", {}).planned(), directory)
    unseen = {f"hq-code/{index}" for index in range(30)} - {use.id for use in ledger.everything()}
    assert unseen
    assert ledger.uses(unseen) == []


def test_a_ledger_reads_back_as_it_was_written(tmp_path: Path) -> None:
    directory = mixture(tmp_path)
    planned = source(directory, "decay", {"hq-code": 50}).planned()
    planned.save(tmp_path)
    again = PhasePlanned.load(tmp_path / PHASE_LEDGER)
    assert list(PhaseLedger(again, directory).everything()) == list(PhaseLedger(planned, directory).everything())


def test_totals_are_the_tokens_of_the_phase(tmp_path: Path) -> None:
    directory = mixture(tmp_path)
    totals = PhaseLedger(source(directory, "diverse_stable", {}).planned(), directory).totals()
    assert sum(int(str(group["tokens"])) for group in totals.groups) == 1280
    assert totals.steps == 20
