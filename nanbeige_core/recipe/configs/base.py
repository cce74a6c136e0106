"""The base class of every identity config, and the values several stages share.

Identity configs say what an artifact is; they are fingerprinted. How a stage executes is `contract.Runtime`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class IdentityConfig(BaseModel):
    """Forbid unknown keys and mutation, so that a fingerprint always covers the whole config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def served_models(self) -> tuple[str, ...]:
        """Return the models that the stage asks over runtime.endpoint_url; none for most."""
        return ()


class ModelConfig(IdentityConfig):
    """Llama-shaped decoder (report section 1, model card)."""

    layers: int = Field(default=32, ge=1, description="Transformer layers. card")
    hidden_size: int = Field(default=2560, ge=8, description="Model width. card")
    query_heads: int = Field(default=20, ge=1, description="Attention heads. card")
    kv_heads: int = Field(default=4, ge=1, description="Key/value groups. card")
    head_size: int = Field(default=128, ge=2, description="Width of one head. card")
    ffn_size: int = Field(default=10496, ge=8, description="SwiGLU inner width. card")
    norm_epsilon: float = Field(default=1e-5, gt=0, description="RMSNorm epsilon. card")
    initializer_range: float = Field(default=0.02, gt=0, description="Standard deviation of initial weights. card")
    tied_embeddings: bool = Field(default=False, description="Share input and output embeddings. card: untied")
    rope_theta: float = Field(default=1e4, gt=0, description="RoPE base before the context is extended. ours")
    max_positions: int = Field(default=4096, ge=8, description="Longest window in tokens before decay. ours")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="Parameter precision. card")


class OptimizerConfig(IdentityConfig):
    """AdamW (all values ours: the report names none)."""

    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the gradient's running mean. ours")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Decay of its running square. ours")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the square root. ours")
    weight_decay: float = Field(default=0.1, ge=0, description="Not applied to norms, biases and embeddings. ours")
    clip_norm: float = Field(default=1.0, gt=0, description="Global gradient norm bound. ours")


class SamplingConfig(IdentityConfig):
    """How responses are drawn; a stage that names a value of the report or the card says so beside its own field."""

    temperature: float = Field(default=1.0, ge=0, description="0 means greedy. ours")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Probability mass kept; 1 keeps all. ours")
    top_k: int = Field(default=0, ge=0, description="Tokens kept; 0 means off. ours")
    max_new_tokens: int = Field(default=1024, ge=1, description="Longest response; longer ones are truncated. ours")
