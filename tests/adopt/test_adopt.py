"""Something from outside in a stage's place: what is accepted, what is refused, and what the plan makes of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from flows.cli import app
from nanbeige_core.adopt.documents import CorpusFields
from nanbeige_core.adopt.recognise import recognise
from nanbeige_core.adopt.register import register
from nanbeige_core.adopt.source import AdoptError, Wanted
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.pins import list_pins
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Runtime
from nanbeige_core.data.tables import read_rows
from nanbeige_core.errors import RecipeError
from nanbeige_core.megatron import parallel
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Plan, Selection, make_plan
from nanbeige_core.stages import STAGES
from tests.conftest import RECIPE_FILE
from tests.launch.test_execute import corpus_file
from tests.sft.tiny_tokenizer import tiny_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with more vocabulary rows than its tokenizer has ids, as many published ones have."""
    torch.manual_seed(0)
    path = tmp_path / "hf"
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tiny_tokenizer()) + 6, **SHAPE)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def adopt(store: Store, path: Path, tokenizer: Path | None, stage: str = "overall_sft", **rest: Any) -> Manifest:
    spec = STAGES[stage]
    source = recognise(path, spec.produces, Wanted(stage, tokenizer, **rest), CorpusFields())
    return register(store, stage, spec, source)[0]


def planned(store: Store, *overrides: str, selection: Selection | None = None) -> Plan:
    return make_plan(load_recipe(RECIPE_FILE, profile="laptop", overrides=list(overrides)), store, selection)


def test_an_adopted_model_computes_the_logits_of_the_folder(store: Store, folder: Path, tokenizer: Path) -> None:
    from nanbeige_core.megatron.export import compare_logits

    manifest = adopt(store, folder, tokenizer)
    theirs = LlamaForCausalLM.from_pretrained(folder).eval()
    theirs.resize_token_embeddings(len(tiny_tokenizer()))
    tokens = torch.randint(0, len(tiny_tokenizer()), (1, 40), generator=torch.Generator().manual_seed(1))
    difference = compare_logits(theirs, store.local_path(manifest), tokens, Runtime())
    parallel.teardown()
    assert difference < 1e-5


def test_content_is_identity_and_place_is_not(store: Store, folder: Path, tokenizer: Path, tmp_path: Path) -> None:
    first = adopt(store, folder, tokenizer)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert adopt(store, tmp_path / "elsewhere", tokenizer).fingerprint == first.fingerprint
    weights = load_file(str(folder / "model.safetensors"))
    weights["model.norm.weight"][0] += 1
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    assert adopt(store, folder, tokenizer).fingerprint != first.fingerprint


def test_the_plan_shows_the_adopted_stage_as_a_hit_and_what_follows_as_changed(
    store: Store, folder: Path, tokenizer: Path
) -> None:
    adopted = adopt(store, folder, tokenizer)
    plain, changed = planned(store), planned(store, f"overall_sft.adopted={adopted.fingerprint[:16]}")
    stage = changed.stages["overall_sft"]
    assert (stage.action, stage.causes, stage.fingerprint) == (
        "HIT",
        ("adopted (a Hugging Face model)",),
        adopted.fingerprint,
    )
    moved = {name for name in plain.stages if plain.stages[name].fingerprint != changed.stages[name].fingerprint}
    assert moved == {"overall_sft"} | plain.recipe.descendants("overall_sft")


def test_what_only_the_adopted_stage_would_have_read_is_not_made(store: Store, folder: Path, tokenizer: Path) -> None:
    adopted = adopt(store, folder, tokenizer)
    plan = planned(store, f"overall_sft.adopted={adopted.fingerprint}")
    assert [name for name, one in plan.stages.items() if one.action == "SKIP"] == ["refinement"]
    assert plan.stages["refinement"].causes == ("only an adopted stage would read it",)


def test_until_runs_nothing_above_an_adopted_stage(store: Store, folder: Path, tokenizer: Path) -> None:
    adopted = adopt(store, folder, tokenizer)
    selection = Selection(until="overall_sft", force=True)
    plan = planned(store, f"overall_sft.adopted={adopted.fingerprint}", selection=selection)
    assert plan.to_run == []


def test_an_adopted_value_that_is_not_there_is_refused_by_the_plan(store: Store) -> None:
    with pytest.raises(RecipeError, match=r"12345678e1234567.*not in.*nanbeige adopt overall_sft PATH"):
        planned(store, "overall_sft.adopted=12345678e1234567")


def test_an_artifact_of_another_stage_is_refused_by_the_recipe() -> None:
    with pytest.raises(RecipeError, match="an artifact of stage dpd"):
        load_recipe(RECIPE_FILE, profile="laptop", overrides=["overall_sft.adopted=dpd/0123456789abcdef"])


def test_a_model_of_another_vocabulary_is_refused_by_the_plan(store: Store, folder: Path, tokenizer: Path) -> None:
    model = adopt(store, folder, tokenizer)
    other = json.loads((tokenizer / "tokenizer.json").read_text())
    other["model"]["vocab"] = {
        f"{key}'" if key == "b" else key: value for key, value in other["model"]["vocab"].items()
    }
    (tokenizer / "tokenizer.json").write_text(json.dumps(other))
    theirs = adopt(store, tokenizer, None, "tokenizer")
    with pytest.raises(RecipeError, match="its ids would mean other text"):
        planned(store, f"overall_sft.adopted={model.fingerprint}", f"tokenizer.adopted={theirs.fingerprint}")


def break_config(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text()) | values
    (path / "config.json").write_text(json.dumps(config))


def test_bad_models_are_refused_with_what_is_wrong(folder: Path, tokenizer: Path, tmp_path: Path) -> None:
    def refused(words: str, path: Path, wanted: Path | None = tokenizer, **rest: Any) -> None:
        with pytest.raises(AdoptError, match=words):
            recognise(path, Kind.CHECKPOINT, Wanted("overall_sft", wanted, **rest), CorpusFields())

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    refused("does not exist", tmp_path / "absent")
    refused("neither a Hugging Face folder", tokenizer)
    refused("recipe's tokenizer is not in the store", folder, None)
    refused("goes on with optimizer", folder, needs_training_state=True)
    lost = copy("no-tokenizer")
    (lost / "tokenizer.json").unlink()
    refused("holds no tokenizer.json", lost)
    wrong = copy("score")
    break_config(wrong, architectures=["LlamaForSequenceClassification"])
    refused("architecture LlamaForSequenceClassification", wrong)
    scaled = copy("rope")
    break_config(scaled, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0})
    refused("RoPE of type yarn", scaled)
    wider = copy("wider")
    break_config(wider, intermediate_size=64)
    refused(r"of shape \(48, 32\) where config.json says \(64, 32\)|of shape \(32, 48\)", wider)
    cut = copy("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:40])
    refused("not a readable safetensors file", cut)
    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(r"holds no \*\.safetensors", pickled)


def test_attention_biases_are_named(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "qwen"
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tiny_tokenizer()), **SHAPE)).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    with pytest.raises(AdoptError, match=r"tensors too many.*bias.*Qwen2"):
        recognise(path, Kind.CHECKPOINT, Wanted("overall_sft", tokenizer), CorpusFields())


def test_a_checkpoint_of_ours_is_adopted_as_it_is(store: Store, folder: Path, tokenizer: Path) -> None:
    ours = store.local_path(adopt(store, folder, tokenizer))
    again = adopt(store, ours, tokenizer, "dpd")
    assert again.reference.address.startswith("dpd/")
    copied = {name: entry.sha256 for name, entry in again.files.items()}
    assert copied == {name: entry.sha256 for name, entry in store.resolve("overall_sft").files.items()}
    with pytest.raises(AdoptError, match="without optimizer/"):
        adopt(store, ours, tokenizer, "fgwsd_warmup", needs_training_state=True)


def test_a_judge_is_adopted_with_the_tokens_it_answers_with(store: Store, folder: Path, tokenizer: Path) -> None:
    manifest = adopt(store, folder, tokenizer, "reward_model")
    verdict = json.loads((store.local_path(manifest) / "verdict.json").read_text())
    assert [tiny_tokenizer().decode([verdict[name]]) for name in ("token_a", "token_b")] == ["A", "B"]


def test_a_corpus_is_adopted_by_content(store: Store, tmp_path: Path) -> None:
    first = adopt(store, corpus_file(tmp_path), None, "ingest")
    (tmp_path / "elsewhere").mkdir()
    second = adopt(store, Path(shutil.copy(tmp_path / "mine.jsonl", tmp_path / "elsewhere")), None, "ingest")
    assert second.reference == first.reference
    rows = list(read_rows(store.local_path(first) / "documents"))
    assert len(rows) == 20
    assert str(tmp_path) not in json.dumps(rows)


def test_a_corpus_without_its_text_column_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"body": "text under another name"}\n')
    with pytest.raises(AdoptError, match="has no field 'text'"):
        recognise(file, Kind.CORPUS, Wanted("ingest", None), CorpusFields())


def test_a_type_without_a_foreign_form_wants_its_own_files(tmp_path: Path) -> None:
    with pytest.raises(AdoptError, match=r"expected a folder with pairs\.parquet, validation\.parquet"):
        recognise(tmp_path, Kind.PREFERENCE_PAIRS, Wanted("preference_pairs", None), CorpusFields())


def test_the_command_prints_what_to_set_and_the_plan_takes_it(store: Store, tmp_path: Path) -> None:
    where = ["--store", store.root]
    run = CliRunner().invoke(app, ["adopt", "ingest", str(corpus_file(tmp_path)), *where, "--json"])
    assert run.exit_code == 0, run.output
    shown = CliRunner().invoke(app, ["plan", "--set", json.loads(run.stdout)["set"], *where, "--json"])
    assert {"stage": "ingest", "action": "HIT"}.items() <= json.loads(shown.stdout)[0].items()
    (pinned,) = list_pins(store)
    assert pinned.address == json.loads(run.stdout)["address"]
    assert "mine.jsonl" in pinned.note


def test_an_unknown_category_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["adopt", "ingest", str(tmp_path), "--category", "poems"])
    assert isinstance(run.exception, RecipeError)
    assert "--category 'poems'" in str(run.exception)
