import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.megatron import export, import_hf, parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.frozen import FrozenModel
from nanbeige_core.megatron.hf_source import ImportFailure, locate, model_config
from nanbeige_core.megatron.parity import run_ranks
from nanbeige_core.megatron.weights import ModelCard, read_model_card, write_model_card
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.configs.hugging_face import HfSource, ImportModelConfig, ImportTokenizerConfig
from nanbeige_core.recipe.configs.pretrain import ExportConfig
from tests.sft.tiny_tokenizer import tiny_tokenizer

TEMPLATE = "{%- for m in messages -%}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{%- endfor -%}"
VOCABULARY = len(tiny_tokenizer())
SHAPE = ModelConfig(
    layers=4,
    hidden_size=48,
    ffn_size=80,
    query_heads=6,
    kv_heads=2,
    head_size=8,
    max_positions=64,
    rope_theta=123456.0,
    tied_embeddings=True,
    norm_epsilon=1e-6,
    initializer_range=0.2,
    dtype="float32",
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"processes": 2, "tensor_parallel": 2},
    "pp2": {"processes": 2, "pipeline_parallel": 2},
    "dp2": {"processes": 2},
}


@pytest.fixture(autouse=True)
def one_rank() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    parallel.teardown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tied Llama with an odd RoPE base, its tokenizer and its own chat template."""
    folder = tmp_path_factory.mktemp("source")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 123456.0},
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def job(config: Any, work: Path, runtime: Runtime | None = None, **inputs: Path) -> Job:
    kinds = {"tokenizer": Kind.TOKENIZER, "checkpoint": Kind.CHECKPOINT}
    given = {name: InputArtifact(name, kinds[name], name, path) for name, path in inputs.items()}
    work.mkdir(parents=True, exist_ok=True)
    return Job("import", config, runtime or Runtime(), given, work, work)


def tokenizer_config(source: Path, template: Any = "project", **changes: Any) -> ImportTokenizerConfig:
    values = {"source": HfSource(path=str(source)), "chat_template": template, "vocab_size": VOCABULARY}
    return ImportTokenizerConfig(**(values | changes))


def model_import(source: Path, **changes: Any) -> ImportModelConfig:
    return ImportModelConfig(source=HfSource(path=str(source)), model=SHAPE, vocab_size=VOCABULARY).model_copy(
        update=changes
    )


def imported(source: Path, root: Path, runtime: Runtime | None = None) -> tuple[Path, Path]:
    """Import tokenizer and model; return both directories."""
    tokenizer = root / "tokenizer"
    if not tokenizer.exists():
        import_hf.run_tokenizer(job(tokenizer_config(source, "original"), tokenizer))
    import_hf.run(job(model_import(source), root / "model", runtime, tokenizer=tokenizer))
    return tokenizer, root / "model"


def export_config() -> ExportConfig:
    return ExportConfig.model_validate({"probe_tokens": 32, "prompts": ("a",), "sampling": {"max_new_tokens": 2}})


def require_same_model(source: Path, exported: Path) -> None:
    ours, theirs = (LlamaForCausalLM.from_pretrained(folder) for folder in (source, exported))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in ours.state_dict().items())
    for field in ("rope_parameters", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "head_dim"):
        assert getattr(ours.config, field) == getattr(theirs.config, field), field


def test_a_model_comes_back_from_megatron_bit_for_bit_with_its_chat_template(source: Path, tmp_path: Path) -> None:
    tokenizer, model = imported(source, tmp_path)
    parallel.teardown()
    outcome = export.run(job(export_config(), tmp_path / "exported", checkpoint=model, tokenizer=tokenizer))
    assert outcome.metrics["max_logit_difference"] < 1e-4
    require_same_model(source, tmp_path / "exported")
    back = PreTrainedTokenizerFast.from_pretrained(tmp_path / "exported")
    assert back.chat_template == TEMPLATE
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["rope_theta"] == 123456.0


def import_in_layouts(rank: int, *, source: Path, root: Path) -> None:
    for name, runtime in LAYOUTS.items():
        parallel.reset()
        imported(source, root / name, Runtime(**runtime))
        parallel.reset()


def test_the_round_trip_is_exact_from_every_layout(source: Path, tmp_path: Path) -> None:
    for name in LAYOUTS:
        import_hf.run_tokenizer(job(tokenizer_config(source, "original"), tmp_path / name / "tokenizer"))
    run_ranks(2, functools.partial(import_in_layouts, source=source, root=tmp_path), tmp_path)
    for name in LAYOUTS:
        exported = tmp_path / name / "exported"
        exported.mkdir()
        export.write_folder(tmp_path / name / "model", tmp_path / name / "tokenizer", exported, export_config())
        require_same_model(source, exported)


@torch.no_grad()
def test_an_extended_window_computes_the_same_logits_beyond_the_old_one(source: Path, tmp_path: Path) -> None:
    tokenizer, model = imported(source, tmp_path)
    card = read_model_card(model)
    longer = card.model.model_copy(update={"rope_theta": 5e6, "max_positions": 256})
    write_model_card(model, ModelCard(longer, card.vocab_size, card.tokenizer_fingerprint))
    parallel.reset()
    exported = tmp_path / "exported"
    exported.mkdir()
    export.write_folder(model, tokenizer, exported, export_config())
    tokens_BS = torch.randint(0, card.vocab_size, (1, 200), generator=torch.Generator().manual_seed(1))
    theirs = LlamaForCausalLM.from_pretrained(exported)(tokens_BS).logits
    batch = Batch(tokens_BS, tokens_BS, torch.ones(tokens_BS.shape))
    ours = FrozenModel.open(model / "weights", runtime=Runtime()).logits(batch)[..., : card.vocab_size]
    torch.testing.assert_close(ours[:, 64:], theirs[:, 64:], rtol=1e-4, atol=1e-4)
    before = LlamaForCausalLM.from_pretrained(source)(tokens_BS).logits
    assert (before[:, 64:] - theirs[:, 64:]).abs().max() > 1e-2


def test_the_projects_template_replaces_the_originals_on_request(source: Path, tmp_path: Path) -> None:
    import_hf.run_tokenizer(job(tokenizer_config(source), tmp_path))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [{"role": "assistant", "reasoning": "r", "content": "c"}]
    assert "<think>\nr\n</think>" in tokenizer.apply_chat_template(turns, tokenize=False)
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_type"),
    ],
)
def test_a_model_that_megatron_would_compute_otherwise_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ImportFailure, match=word):
        model_config(LlamaConfig(**changes), dtype="float32")


def test_another_file_than_the_recipe_names_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportFailure, match="not the same model"):
        locate(HfSource(path=str(source), sha256="0" * 64), tmp_path)
    with pytest.raises(ImportFailure, match="does not exist"):
        locate(HfSource(path=str(tmp_path / "none")), tmp_path)


def test_a_model_of_another_shape_than_the_recipe_says_is_refused(source: Path, tmp_path: Path) -> None:
    import_hf.run_tokenizer(job(tokenizer_config(source), tmp_path / "tokenizer"))
    wanted = model_import(source, model=SHAPE.model_copy(update={"layers": 5, "rope_theta": 1e4}))
    with pytest.raises(ImportFailure, match=r"layers 4 \(recipe: 5\), rope_theta 123456.0 \(recipe: 10000.0\)"):
        import_hf.run(job(wanted, tmp_path / "model", tokenizer=tmp_path / "tokenizer"))
    with pytest.raises(ImportFailure, match="the recipe says 7"):
        import_hf.run_tokenizer(job(tokenizer_config(source, vocab_size=7), tmp_path))
