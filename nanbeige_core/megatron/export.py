"""Write a checkpoint as a Hugging Face folder, and prove that transformers computes the same logits from it.

Legend: B sequence, S position, V vocabulary.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome, Runtime, Section
from nanbeige_core.launch.ranks import rank
from nanbeige_core.megatron import convert
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.frozen import FrozenModel
from nanbeige_core.recipe.configs.pretrain import ExportConfig

TURN_END, TEXT_END = "<|im_end|>", "<|endoftext|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


class ExportError(RuntimeError):
    """Report an exported folder that is not the model it was made from."""


def run(job: Job) -> Outcome:
    """Export, compare logits on real tokens, and answer the configured prompts from the exported folder.

    Raises ExportError when a logit differs by more than the tolerance.
    """
    config = cast(ExportConfig, job.config)
    checkpoint, tokenizer_dir = job.inputs["checkpoint"].path, job.inputs["tokenizer"].path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    if rank() == 0:
        write_folder(checkpoint, tokenizer_dir, job.work, config)
    exported = LlamaForCausalLM.from_pretrained(job.work).eval()
    tokens_BS = probe_tokens(tokenizer, exported, config)
    difference = compare_logits(exported, checkpoint, tokens_BS, job.runtime)
    _require_extended_rope(exported, checkpoint)
    if difference > config.tolerance:
        raise ExportError(
            f"logits of the exported folder differ from Megatron's by {difference:.3g}, at most {config.tolerance:.3g} "
            "is allowed: the folder is not the same model. Check RoPE base, norm epsilon and dtype in config.json."
        )
    answers = answer_prompts(exported, tokenizer, config)
    parameters = sum(weight.numel() for weight in exported.parameters())
    return Outcome(
        summary=(
            f"Exported {parameters:,} parameters; logits agree with Megatron to {difference:.2g} "
            f"on {tokens_BS.numel()} tokens."
        ),
        counts={"parameters": parameters, "probe_tokens": tokens_BS.numel()},
        metrics={"max_logit_difference": difference},
        sections=[Section(title="Sample responses from the exported folder", table=answers)],
    )


def write_folder(checkpoint: Path, tokenizer_dir: Path, directory: Path, config: ExportConfig) -> None:
    """Write weights, config, generation config and tokenizer; one process, no collectives beyond its own group."""
    model_json: dict[str, Any] = json.loads((checkpoint / "model.json").read_text())
    state = {name: tensor.clone() for name, tensor in convert.load_hf_state(checkpoint).items()}
    save_file(state, str(directory / "model.safetensors"), metadata={"format": "pt"})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
    hf_config = convert.hf_config(model_json)
    hf_config.bos_token_id = tokenizer.bos_token_id
    hf_config.eos_token_id = _id(tokenizer, TURN_END)
    hf_config.pad_token_id = _id(tokenizer, TEXT_END)
    convert.write_hf_config(hf_config, directory)
    generation = {
        "eos_token_id": hf_config.eos_token_id,
        "pad_token_id": hf_config.pad_token_id,
        "do_sample": config.sampling.temperature > 0,
        "temperature": config.sampling.temperature,
        "top_p": config.sampling.top_p,
        "top_k": config.sampling.top_k,
        "max_new_tokens": config.sampling.max_new_tokens,
    }
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).exists():
            shutil.copy(tokenizer_dir / name, directory / name)


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise ExportError(f"the tokenizer has no {token}, which the chat format needs: rebuild the tokenizer")
    return found


def probe_tokens(tokenizer: PreTrainedTokenizerFast, exported: Any, config: ExportConfig) -> Tensor:
    """Return the prompts, rendered as chat and repeated, as one row of real tokens [1, S]."""
    text = "".join(_chat(tokenizer, prompt) for prompt in config.prompts)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    length = min(config.probe_tokens, exported.config.max_position_embeddings)
    repeats = -(-length // len(ids))
    return torch.tensor([(ids * repeats)[:length]])


def _chat(tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    turns = [{"role": "user", "content": prompt}]
    return cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@torch.no_grad()
def compare_logits(exported: Any, checkpoint: Path, tokens_BS: Tensor, runtime: Runtime) -> float:
    """Return the largest absolute logit difference between transformers and Megatron on the same tokens."""
    alone = Runtime.model_validate({"threads": runtime.threads})
    frozen = FrozenModel.open(checkpoint / "weights", runtime=alone)
    batch = Batch(tokens_BS, tokens_BS, torch.ones(tokens_BS.shape))
    ours_BSV = frozen.logits(batch)[..., : frozen.card.vocab_size].float().cpu()
    theirs_BSV = exported(tokens_BS).logits.float()
    return float((ours_BSV - theirs_BSV).abs().max())


def _require_extended_rope(exported: Any, checkpoint: Path) -> None:
    """Refuse a folder whose RoPE base or window is not the checkpoint's: logits near position 0 would hide it."""
    wanted: dict[str, Any] = json.loads((checkpoint / "model.json").read_text())
    found = (exported.config.rope_parameters["rope_theta"], exported.config.max_position_embeddings)
    if found != (wanted["rope_theta"], wanted["max_positions"]):
        raise ExportError(
            f"the exported folder has (rope_theta, window) {found}, model.json says "
            f"{(wanted['rope_theta'], wanted['max_positions'])}: the window extension was lost on the way"
        )


@torch.no_grad()
def answer_prompts(exported: Any, tokenizer: PreTrainedTokenizerFast, config: ExportConfig) -> list[dict[str, Any]]:
    """Answer each prompt with transformers' generate under the written generation config."""
    torch.manual_seed(config.seed)
    rows: list[dict[str, Any]] = []
    for prompt in config.prompts:
        ids = torch.tensor([tokenizer.encode(_chat(tokenizer, prompt), add_special_tokens=False)])
        room = exported.config.max_position_embeddings - ids.size(1)
        output = exported.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=min(config.sampling.max_new_tokens, room)
        )
        text = tokenizer.decode(output[0, ids.size(1) :], skip_special_tokens=False)
        rows.append({"prompt": prompt, "response": text})
    return rows
