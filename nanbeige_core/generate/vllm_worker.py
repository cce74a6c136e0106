"""What runs inside a vLLM worker to take new weights correctly, on GPU and on CPU.

On CPU linear weights are prepacked at load time: `model.load_weights` alone fails there, and with tied embeddings a
plain reload leaves the old prepacked output head in place, silently. vLLM's layerwise reload plus a repack of a tied
head is right on both. Checked with vLLM 0.32.0.
"""

from pathlib import Path
from typing import Any


def repack_tied_output_head(model: Any) -> None:
    """Rebuild the prepacked copy of an output head that shares the embedding's weights."""
    if getattr(model.config, "tie_word_embeddings", False):
        model.lm_head.weight = model.model.embed_tokens.weight
        model.lm_head.quant_method.process_weights_after_loading(model.lm_head)


class WeightReceiver:
    """Mixed into vLLM's worker through `worker_extension_cls`; `self` is the worker."""

    model_runner: Any
    vllm_config: Any
    held = ""

    def held_weights(self) -> str:
        """Return the name under which the present weights came, empty for those of the start."""
        return self.held

    def load_state_file(self, path: str, name: str = "") -> None:
        """Replace all weights by a safetensors file: a path crosses process borders where tensors do not."""
        from safetensors.torch import load_file
        from vllm.config import set_current_vllm_config  # pyright: ignore
        from vllm.model_executor.model_loader.reload import (  # pyright: ignore
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        model = self.model_runner.model
        state = load_file(Path(path))
        if getattr(model.config, "tie_word_embeddings", False):
            state.pop("lm_head.weight", None)
        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            model.load_weights(state.items())
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            repack_tied_output_head(model)
        self.held = name
