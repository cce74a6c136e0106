"""The price of a recipe as rows for a terminal, as one line for a plan, and as JSON."""

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

from nanbeige_core.recipe.price.estimate import RecipePrice, StagePrice, Total
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import quote_row

Text = Callable[[float], str]

_COUNTS = ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"), (1.0, ""))
_BYTES = ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B"))
_SECONDS = ((365.25 * 86400, " years"), (86400, " days"), (3600, " h"), (60, " min"), (1.0, " s"))
_NONE = "-"
_LARGEST_COUNT = 1e15
"""Beyond a thousand T a number is written with its exponent."""


def count_text(value: float) -> str:
    """Return a number as a reader says it: 23.0 T, 4.12 M, 12."""
    if value >= _LARGEST_COUNT:
        return f"{value:.2e}".replace("e+", "e")
    if value < 1000:
        return f"{value:.0f}" if value == int(value) or value >= 100 else f"{value:.2g}"
    return _scaled(value, _COUNTS)


def bytes_text(value: float) -> str:
    """Return bytes in decimal units."""
    return _scaled(value, _BYTES)


def seconds_text(value: float) -> str:
    """Return a duration in the unit a reader would choose."""
    return _scaled(value, _SECONDS)


def money_text(value: float) -> str:
    """Return an amount without its currency."""
    if 0 < value < 0.005:
        return "<0.01"
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, name in units:
        if value >= size:
            return f"{value / size:#.3g}".rstrip(".") + name
    return f"{value / units[-1][0]:.2g}{units[-1][1]}"


def expected_text(value: Range, text: Text) -> str:
    """Return the expected value, marked with ~ where the bounds read otherwise."""
    if value.high == 0:
        return _NONE
    low, expected, high = (text(number) for number in (value.low, value.expected, value.high))
    return expected if low == high else f"~{expected}"


def bounds_text(value: Range, text: Text) -> str:
    """Return low - high, or the one value where both read alike."""
    if value.high == 0:
        return _NONE
    low, high = text(value.low), text(value.high)
    return low if low == high else f"{low} - {high}"


def price_rows(price: RecipePrice, *, bounds: bool = False) -> list[dict[str, str]]:
    """Return a row per stage and a total row: expected values, or `bounds`, low - high."""
    write = bounds_text if bounds else expected_text
    currency = price.rates.currency
    rows = [
        {
            "stage": stage.stage,
            "documents": write(stage.documents, count_text),
            **_quantities(stage, write, currency),
            "memory": write(stage.memory_bytes, bytes_text) + ("" if stage.fits else " !"),
            "on": f"{stage.devices} {stage.device}",
        }
        for stage in price.stages.values()
    ]
    total = {"stage": "total", "documents": "", **_quantities(price.total(), write, currency), "memory": "", "on": ""}
    return [*rows, total]


def _quantities(item: StagePrice | Total, write: Callable[[Range, Text], str], currency: str) -> dict[str, str]:
    return {
        "tokens": write(item.tokens, count_text),
        "FLOPs": write(item.flops, flops_text),
        "device-hours": write(item.device_hours + item.core_hours, count_text),
        "time": write(item.seconds, seconds_text),
        "storage": write(item.storage_bytes, bytes_text),
        "API calls": write(item.api_calls, count_text),
        currency: write(item.money, money_text),
    }


def flops_text(value: float) -> str:
    """Return operations with their exponent."""
    return f"{value:.3g}".replace("e+", "e")


def assumption_rows(price: RecipePrice) -> list[dict[str, Any]]:
    """Return every rate and assumption the price rests on, with its source."""
    device, rates = price.rates.device(price.device), price.rates
    rows = [
        quote_row(f"{price.device}, hour, {rates.currency}", device.hour),
        quote_row(f"{rates.core}, hour, {rates.currency}", rates.device(rates.core).hour),
        quote_row(f"storage of 10^12 bytes for a month, {rates.currency}", rates.storage_month),
        quote_row(f"{price.device}: bf16 operations per second", device.peak_bfloat16),
        quote_row(f"{price.device}: fp32 operations per second", device.peak_float32),
        quote_row(f"{price.device}: memory bytes per second", device.bandwidth),
        *(
            quote_row(f"{price.device}: {type(device).model_fields[name].description}", getattr(device, name))
            for name in ("training", "reading", "decoding", "streaming", "pass_seconds", "start_seconds")
        ),
    ]
    return rows + rates.assumptions.rows()


def note_lines(price: RecipePrice) -> list[str]:
    """Return what the prices of some stages leave out or stumble over."""
    return [f"{', '.join(stages)}: {note}." for note, stages in price.notes.items()]


def cost_texts(price: RecipePrice, names: Collection[str]) -> dict[str, str]:
    """Return for each named stage its tokens and time as a plan shows them."""
    found: dict[str, str] = {}
    for name in names:
        stage = price.stages[name]
        tokens = f", {expected_text(stage.tokens, count_text)} tokens" if stage.tokens.expected else ""
        found[name] = f"~{seconds_text(stage.seconds.expected)}{tokens}"
    return found


def total_line(price: RecipePrice, names: Collection[str]) -> str:
    """Return one line that sums the named stages up: expected value, then low - high."""
    total = price.total(names)
    hours = total.device_hours + total.core_hours
    parts = [
        f"{expected_text(total.tokens, count_text)} tokens",
        f"{expected_text(total.flops, flops_text)} FLOPs",
        f"{_inline(hours, count_text)} device-hours on {price.device}",
        f"{_inline(total.seconds, seconds_text)} one after another",
        f"{expected_text(total.storage_bytes, bytes_text)} stored",
        f"{price.rates.currency} {_inline(total.money, money_text)}",
    ]
    return ", ".join(parts)


def _inline(value: Range, text: Text) -> str:
    return f"{text(value.expected)} ({text(value.low)} - {text(value.high)})"


def price_json(price: RecipePrice) -> dict[str, Any]:
    """Return everything the price holds as plain data; quantities are {low, expected, high}."""
    return {
        "recipe": price.recipe.file.recipe,
        "profile": price.recipe.profile,
        "overrides": list(price.recipe.overrides),
        "rates": price.rates.title,
        "currency": price.rates.currency,
        "device": price.device,
        "calibration": price.calibration.model_dump() if price.calibration else None,
        "stages": {name: asdict(stage) | {"fits": stage.fits} for name, stage in price.stages.items()},
        "total": asdict(price.total()),
        "assumptions": assumption_rows(price),
        "notes": note_lines(price),
    }
