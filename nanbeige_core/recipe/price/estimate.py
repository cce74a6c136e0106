"""The price of a recipe, stage by stage: what each does, how long it takes, what it holds, stores and costs.

Pure arithmetic on the loaded recipe and a rate card: no artifact is read and nothing heavy is imported.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import Recipe, Stage
from nanbeige_core.recipe.price.calibration import Calibration
from nanbeige_core.recipe.price.peak_memory import peak_memory
from nanbeige_core.recipe.price.ranges import NOTHING, Range
from nanbeige_core.recipe.price.rates import Device, RateCard
from nanbeige_core.recipe.price.timing import Speed, work_seconds
from nanbeige_core.recipe.price.work import Cost, Made, Processing, Sampling, Training, Work

HOUR = 3600.0
MILLION = 1e6
TERA = 1e12
ENGINE_NOTE = (
    "runtime.engine is transformers, which samples in the host's memory: the price takes vllm. Set it for every stage "
    "that samples"
)
MEMORY_NOTE = (
    "the expected peak does not fit one device: raise runtime.tensor_parallel (and processes with it), set "
    "runtime.sequence_parallel or runtime.recompute, or lower runtime.micro_batch_size"
)

ADOPTED_NOTE = (
    "adopted: the artifact is there and costs nothing; what comes after it is priced for its stage's own size"
)
UNREAD_NOTE = "only an adopted stage would read it: it does not run"


@dataclass(frozen=True)
class PartPrice:
    """One piece of a stage's work."""

    name: str
    kind: str
    tokens: Range
    flops: Range
    seconds: Range


@dataclass(frozen=True)
class StagePrice:
    """What one stage costs; ranges run low, expected, high."""

    stage: str
    title: str
    device: str
    devices: int
    documents: Range
    tokens: Range
    flops: Range
    seconds: Range
    device_hours: Range
    core_hours: Range
    memory_bytes: Range
    memory_limit: float | None
    storage_bytes: Range
    api_calls: Range
    money: Range
    counts: Mapping[str, Range]
    parts: tuple[PartPrice, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Tell whether the expected peak fits the device."""
        return self.memory_limit is None or self.memory_bytes.expected <= self.memory_limit


@dataclass(frozen=True)
class Total:
    """Sums over stages; seconds are those of one stage after the other."""

    tokens: Range
    flops: Range
    seconds: Range
    device_hours: Range
    core_hours: Range
    storage_bytes: Range
    api_calls: Range
    money: Range


@dataclass(frozen=True)
class RecipePrice:
    """Every stage of a recipe under one rate card."""

    recipe: Recipe
    rates: RateCard
    device: str
    calibration: Calibration | None
    stages: dict[str, StagePrice] = field(default_factory=dict[str, StagePrice])

    def total(self, names: Collection[str] | None = None) -> Total:
        """Return the sums over some stages, all by default."""
        chosen = [price for name, price in self.stages.items() if names is None or name in names]
        return Total(
            **{name: Range.total(getattr(price, name) for price in chosen) for name in Total.__dataclass_fields__}
        )

    @property
    def notes(self) -> dict[str, list[str]]:
        """Return each note with the stages it is about."""
        found: dict[str, list[str]] = {}
        for name, price in self.stages.items():
            for note in price.notes:
                found.setdefault(note, []).append(name)
        return found


def price_recipe(
    recipe: Recipe,
    rates: RateCard,
    *,
    device: str = "",
    calibration: Calibration | None = None,
    corpus_tokens: float | None = None,
) -> RecipePrice:
    """Price every stage of a loaded recipe.

    `device` is a name of the rate card (default: the profile's). `corpus_tokens` prices the data stages as if
    ingest found that many tokens. A calibration counts for the device it was measured on, others ignore it. Raises
    RecipeError for an unknown device and for a stage whose values cannot be priced because it could not run.
    """
    name = device or recipe.file.profiles[recipe.profile].device
    chosen = rates.device(name)
    speed = Speed(chosen, calibration if calibration and calibration.device == name else None)
    prices: dict[str, StagePrice] = {}
    needed = recipe.needed()
    for stage_name, cost in expected_costs(recipe, rates, corpus_tokens=corpus_tokens).items():
        stage = recipe.stages[stage_name]
        runs = stage_name in needed and not stage.adopted
        prices[stage_name] = _price(stage, cost, rates, name, speed) if runs else _free(stage, name)
    return RecipePrice(recipe, rates, name, speed.calibration, prices)


def expected_costs(recipe: Recipe, rates: RateCard, *, corpus_tokens: float | None = None) -> dict[str, Cost]:
    """Return what each stage declares, in the order of the recipe: a stage reads what earlier ones are to make.

    An adopted artifact is taken to be of the size that its stage would have made.
    """
    costs: dict[str, Cost] = {}
    for name in _in_order(recipe):
        stage = recipe.stages[name]
        made = {key: costs[upstream].made for key, upstream in {**stage.stands_for, **stage.inputs}.items()}
        function = stage.spec.cost_function()
        if function is None:
            costs[name] = Cost(Made(), NOTHING).noting(
                f"stage type {stage.spec.uses} declares no cost: it is not priced"
            )
            continue
        try:
            cost: Cost = function(stage, made, rates.assumptions)
        except (ValueError, ZeroDivisionError, AssertionError) as error:
            raise RecipeError(f"{recipe.path}: stages.{name} cannot be priced: {error}") from error
        if corpus_tokens is not None and stage.spec.uses == "ingest":
            cost = _scaled_corpus(cost, rates, corpus_tokens)
        costs[name] = cost
    return {name: costs[name] for name in recipe.stages}


def _in_order(recipe: Recipe) -> list[str]:
    """Return the stages after what they read, and after what they would have read were they not adopted."""
    edges = {name: (*stage.inputs.values(), *stage.stands_for.values()) for name, stage in recipe.stages.items()}
    return list(TopologicalSorter(edges).static_order())


def _scaled_corpus(cost: Cost, rates: RateCard, tokens: float) -> Cost:
    """Return ingest's cost for a corpus of that many tokens, of documents as long as the recipe's."""
    characters = rates.assumptions.characters_per_token.range * tokens
    documents = characters.expected / (cost.made.characters.expected / cost.made.rows.expected)
    rows = Range.exactly(documents)
    (work,) = (each for each in cost.work if isinstance(each, Processing))
    return Cost(
        made=Made(rows=rows, characters=characters),
        documents=rows,
        work=(Processing(work.name, rows, work.seconds_each),),
        counts={"kept": rows},
        storage_bytes=characters * rates.assumptions.row_bytes.range,
    )


def _price(stage: Stage, cost: Cost, rates: RateCard, device_name: str, speed: Speed) -> StagePrice:
    if stage.runtime.recompute:
        again = [replace(each, recompute=True) if isinstance(each, Training) else each for each in cost.work]
        cost = replace(cost, work=tuple(again))
    on_cores = all(isinstance(work, Processing) for work in cost.work)
    name = rates.core if on_cores and speed.device.kind == "accelerator" else device_name
    device = rates.device(name)
    ours = speed if name == device_name else Speed(device)
    devices = stage.runtime.processes
    parts = tuple(_part(work, ours, devices) for work in cost.work)
    start = (rates.assumptions.light_start_seconds if on_cores else device.start_seconds).range
    seconds = Range.total(part.seconds for part in parts) + start
    hours = seconds * (devices / HOUR)
    nothing, plain = (NOTHING, hours) if on_cores else (hours, NOTHING)
    requests = [work for work in cost.work if isinstance(work, Sampling) and work.endpoint]
    memory = peak_memory(cost.work, stage.runtime, device)
    limit = device.memory.expected if device.memory else None
    return StagePrice(
        stage=stage.name,
        title=stage.spec.title,
        device=name,
        devices=devices,
        documents=cost.documents,
        tokens=cost.tokens,
        flops=Range.total(part.flops for part in parts),
        seconds=seconds,
        device_hours=nothing,
        core_hours=plain,
        memory_bytes=memory,
        memory_limit=limit,
        storage_bytes=cost.storage_bytes + rates.assumptions.report_bytes.range,
        api_calls=Range.total(work.prompts for work in requests),
        money=hours * device.hour.range + _storage_money(cost, rates) + _api_money(requests, rates),
        counts=cost.counts,
        parts=parts,
        notes=(*cost.notes, *_device_notes(cost, stage, device, memory)),
    )


def _free(stage: Stage, device: str) -> StagePrice:
    """Return the price of a stage that does not run: adopted, or read by adopted stages only."""
    amounts = ("documents", "tokens", "flops", "seconds", "device_hours", "core_hours", "memory_bytes")
    return StagePrice(
        stage=stage.name,
        title=stage.spec.title,
        device=device,
        devices=stage.runtime.processes,
        memory_limit=None,
        storage_bytes=NOTHING,
        api_calls=NOTHING,
        money=NOTHING,
        counts={},
        parts=(),
        notes=(ADOPTED_NOTE if stage.adopted else UNREAD_NOTE,),
        **dict.fromkeys(amounts, NOTHING),
    )


def _part(work: Work, speed: Speed, devices: int) -> PartPrice:
    tokens = NOTHING if isinstance(work, Processing) else work.computed_tokens
    flops = NOTHING if isinstance(work, Processing) else work.flops
    return PartPrice(work.name, type(work).__name__.lower(), tokens, flops, work_seconds(work, speed, devices))


def _storage_money(cost: Cost, rates: RateCard) -> Range:
    months = rates.assumptions.retention_months.range
    return cost.storage_bytes * (1 / TERA) * rates.storage_month.range * months


def _api_money(requests: list[Sampling], rates: RateCard) -> Range:
    sent = Range.total(work.prompts * work.prompt_tokens for work in requests)
    returned = Range.total(work.tokens for work in requests)
    money = sent * rates.million_input_tokens.range + returned * rates.million_output_tokens.range
    return money * (1 / MILLION)


def _device_notes(cost: Cost, stage: Stage, device: Device, memory: Range) -> list[str]:
    samples = any(isinstance(work, Sampling) for work in cost.work)
    in_process = stage.runtime.engine == "transformers" and device.kind == "accelerator"
    notes = [ENGINE_NOTE] if samples and in_process and stage.spec.uses != "export" else []
    if device.memory is not None and memory.expected > device.memory.expected:
        notes.append(MEMORY_NOTE)
    return notes
