"""What a person asks of `trace`, on a store that real stages made."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from nanbeige_core.artifacts.store import Store
from nanbeige_core.data.tables import read_rows
from nanbeige_core.errors import ArtifactError
from nanbeige_core.lineage.forward import Trained
from nanbeige_core.lineage.plain import write_rows_behind
from nanbeige_core.lineage.trace import RowTrace, find_text, trace
from nanbeige_core.lineage.view import Lineage
from tests.lineage.conftest import Made

PHASES = ("fgwsd_warmup", "fgwsd_diverse_stable")


def one(made: Made, target: str) -> RowTrace:
    found = trace(made.store, target)
    assert len(found.rows) == 1
    return found.rows[0]


def a_rollout(made: Made) -> dict[str, object]:
    return next(iter(read_rows(made.path("rl_stem") / "rollouts")))


def trained_by(found: RowTrace) -> dict[str, Trained]:
    return {line.artifact.split("/")[0]: line for line in found.forward.trained}


def test_a_reward_leads_to_problem_checkpoint_and_documents(made: Made) -> None:
    row = a_rollout(made)
    found = one(made, f"rl_stem#{row['step']}/{row['prompt_id']}/{row['sample']}")
    assert f"reward {row['reward']:.3f}" in found.row.says
    assert [one.view.manifest.stage for one in found.before] == ["filter_stem", "problems", "pass_rates_stem"]
    (history,) = found.writers.values()
    assert [step.artifact.split("/")[0] for step in history] == ["cold_start_sft", *reversed(PHASES)]
    mixture = made.references["mixture"].address
    assert [step.trained_on[0].artifact for step in history[1:]] == [mixture, mixture]
    assert sum(int(str(group["tokens"])) for step in history[1:] for group in step.trained_on[0].groups) == 6144


def test_a_rollout_is_shown_as_the_policy_wrote_it(made: Made) -> None:
    from transformers import PreTrainedTokenizerFast

    row = a_rollout(made)
    found = one(made, f"rl_stem#{row['step']}/{row['prompt_id']}/{row['sample']}")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made.path("tokenizer"))
    assert found.row.texts()["text"] == tokenizer.decode(row["tokens"]).removesuffix("<|im_end|>")


def test_a_document_leads_to_every_phase_and_every_later_checkpoint(made: Made) -> None:
    phase = Lineage(made.store).of(made.store.resolve(PHASES[1]))
    everything = phase.open_ledger(phase.trained[0]).everything()
    seen = next(use for use in everything if use.id.startswith("mine-"))
    found = one(made, seen.id)
    assert [line.artifact.split("/")[0] for line in found.forward.found] == [
        "quality_tagging",
        "retrieval_dedup",
        "mixture",
    ]
    assert trained_by(found)[PHASES[1]].uses == (seen,)
    carriers = {model.artifact.split("/")[0]: model for model in found.forward.models}
    assert {"fgwsd_diverse_stable", "cold_start_sft", "rl_stem"} <= set(carriers)
    assert all(model.direct for model in carriers.values())


def test_forward_and_backward_agree_about_every_document(made: Made, tmp_path: Path) -> None:
    lineage = Lineage(made.store)
    write_rows_behind(lineage.of(made.store.resolve("rl_stem")), tmp_path / "rows.parquet")
    behind = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    documents = {row["id"] for row in behind if row["what"] == "documents"}
    sidecar = {row["document_id"]: row["set"] for row in read_rows(made.path("mixture") / "sidecar.parquet")}
    past = {row["artifact"] for row in behind}
    assert documents <= set(sidecar)
    for document in list(sidecar)[::29]:
        trained = [line for line in one(made, document).forward.trained if line.artifact in past]
        uses = [use for line in trained for use in line.uses if use.times]
        assert bool(uses) == (document in documents)


def test_a_held_out_document_was_seen_by_no_model(made: Made) -> None:
    sidecar = read_rows(made.path("mixture") / "sidecar.parquet")
    held_out = next(row["document_id"] for row in sidecar if row["set"] == "validation")
    found = one(made, held_out)
    assert found.forward.models == []
    assert {line.uses for line in found.forward.trained} == {()}


def test_a_dropped_document_says_why_and_for_which_other(made: Made) -> None:
    (dropped,) = read_rows(made.path("retrieval_dedup") / "dropped.parquet")
    found = one(made, dropped["id"])
    (line,) = [line for line in found.forward.found if line.what == "dropped document"]
    assert line.examples[0].says == f"dropped: exact_duplicate (score 1.00, against {dropped['kept_id']})"
    assert found.forward.models == []


def test_a_training_problem_leads_to_its_sample_and_the_steps_that_took_it(made: Made) -> None:
    sample = next(iter(read_rows(made.path("sft_data") / "samples.parquet")))
    found = one(made, sample["prompt_id"])
    assert sample["id"] in [row.id for line in found.forward.found for row in line.examples]
    (use,) = trained_by(found)["cold_start_sft"].uses
    assert (use.id, use.times) == (sample["id"], 2)  # two epochs


def test_groups_without_spread_are_told_apart_from_trained_ones(made: Made) -> None:
    rewards: dict[tuple[int, str], set[float]] = {}
    for row in read_rows(made.path("rl_stem") / "rollouts"):
        rewards.setdefault((row["step"], row["prompt_id"]), set()).add(row["reward"])
    for (_, prompt), seen in rewards.items():
        (use,) = trained_by(one(made, f"problems#{prompt}"))["rl_stem"].uses
        assert (use.times > 0) == (len(seen) > 1)


def test_a_ledger_derived_later_is_the_one_the_stage_wrote(made: Made, tmp_path: Path) -> None:
    copied = tmp_path / "store"
    shutil.copytree(made.store.root, copied, ignore=shutil.ignore_patterns(".cache"))
    for stage in (*PHASES, "cold_start_sft"):
        for name in ("ledger.npz", "ledger.parquet"):
            (copied / made.references[stage].address / name).unlink(missing_ok=True)
    old, new = Lineage(Store(copied, tmp_path / "cache")), Lineage(made.store)
    for stage in (*PHASES, "cold_start_sft"):
        views = [lineage.view(made.references[stage]) for lineage in (old, new)]
        before, after = (list(view.open_ledger(view.trained[0]).everything()) for view in views if view is not None)
        assert before == after
    assert list((tmp_path / "cache/lineage").rglob("ledger.*"))


def test_a_ledger_that_cannot_be_derived_says_what_to_run(made: Made, tmp_path: Path) -> None:
    copied = tmp_path / "store"
    shutil.copytree(made.store.root, copied, ignore=shutil.ignore_patterns(".cache"))
    (copied / made.references["fgwsd_warmup"].address / "ledger.npz").unlink()
    shutil.rmtree(copied / "mixture")
    found = trace(Store(copied, tmp_path / "cache"), "fgwsd_warmup")
    assert found.artifact is not None
    assert "nanbeige run --only fgwsd_warmup --force" in found.artifact.history[0].trained_on[0].missing


def test_a_piece_of_text_finds_its_document(made: Made) -> None:
    document = next(iter(read_rows(made.path("ingest") / "documents")))
    found = find_text(made.store, document["text"][:60])
    assert document["id"] in [row.id for row in found]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no-such-id", "nothing in .* is called 'no-such-id'"),
        ("rl_stem#99/none/0", "rollout: step/prompt_id/sample"),
        ("tokenizer#x", "keeps no rows"),
        ("nowhere#x", "no artifact matches 'nowhere'"),
    ],
)
def test_a_target_that_is_not_there_is_explained(made: Made, target: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        trace(made.store, target)


def test_the_command_prints_the_same_as_tables_and_as_json(made: Made) -> None:
    row = a_rollout(made)
    target = f"rl_stem#{row['step']}/{row['prompt_id']}/{row['sample']}"
    shown = CliRunner().invoke(app, ["trace", target, "--store", made.store.root])
    plain = CliRunner().invoke(app, ["trace", target, "--store", made.store.root, "--json"])
    assert (shown.exit_code, plain.exit_code) == (0, 0)
    (found,) = json.loads(plain.stdout)["rows"]
    assert found["row"] == target.partition("#")[2]
    assert list(found["written_by"])[0].startswith("cold_start_sft/")
    assert "fgwsd_warmup" in shown.stdout
