"""What a stage declares about its cost, in terms of the recipe: kinds of work, and what it hands on.

A stage's cost function reads its config and what its inputs are expected to hold, and returns a `Cost`. It knows no
device: `timing` turns work into seconds, `rates` turns seconds into money.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from nanbeige_core.recipe.configs.problems import ProblemsConfig
from nanbeige_core.recipe.configs.sft import HeldoutConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.ranges import NOTHING, Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.transformer import Decoder, packed_pairs


@dataclass(frozen=True)
class Training:
    """Forward and backward passes with an optimizer step at the end of each batch."""

    name: str
    decoder: Decoder
    tokens: Range
    """Positions computed, padding included."""
    segment: Range
    """Tokens that see one another."""
    micro_tokens: float
    """Positions of one micro-batch."""
    recompute: bool = False
    """Whether the backward pass computes each layer's forward pass again."""

    @property
    def computed_tokens(self) -> Range:
        """Return the positions that pass through the model."""
        return self.tokens

    @property
    def flops(self) -> Range:
        """Return operations executed."""
        pairs = packed_pairs(self.tokens, self.segment)
        once = self.decoder.training_flops(self.tokens, pairs)
        return once + self.decoder.layers_flops(self.tokens, pairs) if self.recompute else once


@dataclass(frozen=True)
class Reading:
    """Forward passes over whole sequences; `frozen` for a second model beside the trained one."""

    name: str
    decoder: Decoder
    tokens: Range
    segment: Range
    micro_tokens: float
    frozen: bool = False

    @property
    def computed_tokens(self) -> Range:
        """Return the positions that pass through the model."""
        return self.tokens

    @property
    def flops(self) -> Range:
        """Return operations executed."""
        return self.decoder.forward_flops(self.tokens, packed_pairs(self.tokens, self.segment))


@dataclass(frozen=True)
class Sampling:
    """Responses drawn token by token; by requests to an endpoint where `endpoint` says so.

    Responses of no tokens are prompts of which only the next token's logits are wanted: a judge's verdicts.
    """

    name: str
    decoder: Decoder
    prompts: Range
    samples: float
    """Responses of one prompt."""
    prompt_tokens: Range
    response_tokens: Range
    endpoint: bool = False

    @property
    def responses(self) -> Range:
        """Return how many responses are drawn."""
        return self.prompts * self.samples

    @property
    def tokens(self) -> Range:
        """Return the tokens drawn."""
        return self.responses * self.response_tokens

    @property
    def computed_tokens(self) -> Range:
        """Return the positions that pass through the model: prompts once, and what is drawn."""
        return self.prompts * self.prompt_tokens + self.tokens

    @property
    def prefill_flops(self) -> Range:
        """Return operations that read the prompts, each once."""
        return self.decoder.prefill_flops(self.prompts, self.prompt_tokens)

    @property
    def decode_flops(self) -> Range:
        """Return operations that draw the responses."""
        return self.decoder.decode_flops(self.responses, self.prompt_tokens, self.response_tokens)

    @property
    def flops(self) -> Range:
        """Return operations executed on own devices."""
        return NOTHING if self.endpoint else self.prefill_flops + self.decode_flops


@dataclass(frozen=True)
class Processing:
    """Work of plain processor cores."""

    name: str
    items: Range
    seconds_each: Range

    @property
    def core_seconds(self) -> Range:
        """Return seconds of one core."""
        return self.items * self.seconds_each


Work = Training | Reading | Sampling | Processing


@dataclass(frozen=True)
class Made:
    """What an artifact is expected to hold, as far as the stages that read it care."""

    rows: Range = NOTHING
    row_tokens: Range = NOTHING
    held_out: Range = NOTHING
    """Rows set aside for validation, besides `rows`."""
    answer_tokens: Range = NOTHING
    """Tokens of a row that are trained on, where that is not the whole row."""
    characters: Range = NOTHING
    decoder: Decoder | None = None
    measured: HeldoutConfig | None = None
    """How a checkpoint measured itself; who reads it does not measure it again in the same way."""
    vocab_size: int = 0
    problems: ProblemsConfig | None = None


@dataclass(frozen=True)
class Cost:
    """What a stage does and leaves behind; `counts` carry the names its manifest uses."""

    made: Made
    documents: Range
    tokens: Range = NOTHING
    work: tuple[Work, ...] = ()
    counts: Mapping[str, Range] = field(default_factory=dict[str, Range])
    storage_bytes: Range = NOTHING
    notes: tuple[str, ...] = ()

    def noting(self, *notes: str) -> "Cost":
        """Return the cost with the non-empty notes added."""
        return replace(self, notes=self.notes + tuple(note for note in notes if note))


CostFunction = Callable[[Stage, Mapping[str, Made], Assumptions], Cost]
