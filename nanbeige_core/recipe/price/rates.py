"""The rate card: what a device can do and costs, and what is assumed where the recipe fixes nothing.

The shipped card is `rates.yaml`; `--rates FILE` reads another one of the same shape. Every value names its source.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.recipe.price.ranges import Range

SHIPPED = Path(__file__).with_name("rates.yaml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quote(_Section):
    """One number of the card with its bounds and where it comes from."""

    low: float = Field(ge=0)
    expected: float = Field(ge=0)
    high: float = Field(ge=0)
    source: str = Field(min_length=1, description="A document, or `ours`.")

    @model_validator(mode="before")
    @classmethod
    def spread_exact(cls, values: Any) -> Any:
        """Accept `exactly: x` for low = expected = high = x."""
        if isinstance(values, dict) and "exactly" in values:
            exact = values["exactly"]
            rest = {key: value for key, value in values.items() if key != "exactly"}
            return {"low": exact, "expected": exact, "high": exact, **rest}
        return values

    @model_validator(mode="after")
    def validate_order(self) -> "Quote":
        """Refuse bounds that cross."""
        if not self.low <= self.expected <= self.high:
            raise ValueError(f"low {self.low:g} <= expected {self.expected:g} <= high {self.high:g} does not hold")
        return self

    @property
    def range(self) -> Range:
        """Return the bounds as a range."""
        return Range(self.low, self.expected, self.high)


class Device(_Section):
    """One device: an accelerator, or one core of a processor."""

    title: str
    kind: Literal["accelerator", "core"]
    peak_bfloat16: Quote = Field(description="Operations per second, dense.")
    peak_float32: Quote = Field(description="Operations per second.")
    memory: Quote | None = Field(default=None, description="bytes; none = the host's, not checked.")
    bandwidth: Quote = Field(description="Memory bytes per second.")
    training: Quote = Field(description="Share of the peak that a training step reaches.")
    reading: Quote = Field(description="Share of the peak that a forward pass over whole sequences reaches.")
    decoding: Quote = Field(description="Share of the peak that token-by-token sampling can reach.")
    streaming: Quote = Field(description="Share of the bandwidth that token-by-token sampling reaches.")
    pass_seconds: Quote = Field(description="Seconds a layer costs per pass whatever its size.")
    start_seconds: Quote = Field(description="Seconds from the launch of a stage to its first step.")
    base_memory: Quote = Field(description="bytes of a process that holds no model.")
    batch: int = Field(ge=1, description="Sequences that an engine decodes together.")
    hour: Quote = Field(description="Price of one hour, in the card's currency.")

    def peak(self, dtype: str) -> Range:
        """Return operations per second at a precision."""
        return {"bfloat16": self.peak_bfloat16, "float32": self.peak_float32}[dtype].range


class ProblemTokens(_Section):
    """Mean tokens of one domain's problems."""

    prompt: float = Field(gt=0)
    answer: float = Field(gt=0, description="Reasoning and answer.")


class Assumptions(_Section):
    """What is assumed where neither the recipe nor arithmetic fixes a value."""

    kept_budget: Quote = Field(description="Share of a packaged source's document budget that is found and not empty.")
    unbounded_documents: Quote = Field(description="Documents of a user's source that names no bound.")
    document_characters: Quote = Field(description="Characters of a document, within the recipe's own bound.")
    distinct_documents: Quote = Field(description="Share of the documents that deduplication and gates keep.")
    characters_per_token: Quote = Field(description="Characters that one token stands for.")
    problem_tokens: dict[str, ProblemTokens] = Field(description="Tokens of the generated problems by domain.")
    problem_tokens_source: str
    problem_length: Quote = Field(
        description="Factor on these tokens for other tokenizers and shares of hard problems."
    )
    chat_tokens: Quote = Field(description="Tokens that the chat format adds to a prompt and its response.")
    response_share: Quote = Field(description="Mean response as a share of max_new_tokens.")
    response_tokens: Quote = Field(description="Mean response at most, however long max_new_tokens is.")
    packing_fill: Quote = Field(description="Share of packed sequences that is not padding.")
    judge_tokens: Quote = Field(description="Tokens of the judge's template around question and answers.")
    refinement_active: Quote = Field(description="Share of instructions that need each further round.")
    refinement_kept: Quote = Field(description="Share of instructions whose refined response is kept.")
    pairs_kept: Quote = Field(description="Share of prompts that give a preference pair.")
    on_policy_kept: Quote = Field(description="Share of problems whose pass rate lies in the band.")
    trained_rollouts: Quote = Field(description="Share of rollouts that get a gradient.")
    ingest_seconds: Quote = Field(description="Core seconds per document: extract, cut, detect the language.")
    problem_seconds: Quote = Field(description="Core seconds per problem: generate, and verify programs.")
    tagging_seconds: Quote = Field(description="Core seconds per document: 20 labels and the student.")
    deduplication_seconds: Quote = Field(description="Core seconds per document: minhash, retrieval, score.")
    tokenizer_seconds: Quote = Field(description="Core seconds per training character of the tokenizer.")
    mixture_seconds: Quote = Field(description="Core seconds per document: encode and write.")
    verdict_seconds: Quote = Field(description="Core seconds per verified response.")
    light_start_seconds: Quote = Field(description="Seconds from launch to the first item of a stage without a model.")
    report_bytes: Quote = Field(description="bytes of a stage's report and state beside its data.")
    row_bytes: Quote = Field(description="Stored bytes per character of text, compressed.")
    retention_months: Quote = Field(description="Months that artifacts are kept.")

    def rows(self) -> list[dict[str, Any]]:
        """Return each assumption as a row: what, low, expected, high, source."""
        rows = [quote_row(str(field.description), getattr(self, name)) for name, field in self._quotes()]
        tokens = ", ".join(f"{name} {each.prompt:g}+{each.answer:g}" for name, each in self.problem_tokens.items())
        text = f"Tokens of a problem and its answer: {tokens}."
        return [
            *rows,
            {"assumption": text, "low": "", "expected": "", "high": "", "source": self.problem_tokens_source},
        ]

    def _quotes(self) -> list[tuple[str, Any]]:
        fields = type(self).model_fields.items()
        return [(name, field) for name, field in fields if isinstance(getattr(self, name), Quote)]


class RateCard(_Section):
    """Devices with their prices, storage, endpoints, and assumptions."""

    title: str
    currency: str
    devices: dict[str, Device] = Field(min_length=1)
    core: str = Field(description="Device whose hour prices work on plain processor cores.")
    storage_month: Quote = Field(description="Price of 10^12 bytes for a month.")
    million_input_tokens: Quote = Field(description="Price of tokens sent to an endpoint.")
    million_output_tokens: Quote = Field(description="Price of tokens an endpoint returns.")
    assumptions: Assumptions

    @model_validator(mode="after")
    def validate_core(self) -> "RateCard":
        """Refuse a core that the card does not price."""
        self.device(self.core)
        return self

    def device(self, name: str) -> Device:
        """Return a device by name; raise RecipeError with the nearest known name otherwise."""
        if name not in self.devices:
            raise RecipeError(f"the rate card {self.title!r} has no device {name!r}; {nearest(name, self.devices)}")
        return self.devices[name]


def quote_row(text: str, quote: Quote) -> dict[str, Any]:
    """Return a quote as a row of the list below the price table."""
    return {
        "assumption": text,
        "low": quote.low,
        "expected": quote.expected,
        "high": quote.high,
        "source": quote.source,
    }


@cache
def load_rates(path: Path = SHIPPED) -> RateCard:
    """Read a rate card.

    Raises RecipeError naming file and place for a missing file, unreadable YAML, unknown keys and crossing bounds.
    """
    try:
        return RateCard.model_validate(yaml.load(path.read_text(), Loader=_loader()))
    except OSError as error:
        raise RecipeError(f"no rate card at {path}: {error}. Copy {SHIPPED} and change its prices.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    except ValidationError as error:
        problems = [f"{path}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise RecipeError("\n".join(problems) + f"\nThe shipped card, {SHIPPED}, shows every key.") from error


def _loader() -> Any:
    """Return the C loader where PyYAML has it: a card is read in every plan."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
