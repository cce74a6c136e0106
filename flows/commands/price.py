"""`nanbeige price`: what the recipe will cost, from the recipe alone."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from flows.console import (
    FileOption,
    JsonOption,
    ProfileOption,
    SetOption,
    StoreOption,
    calibration_path,
    console,
    print_rows,
)
from flows.parameters import RECIPE_FILE
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.price.calibration import Calibration, load_calibration, save_calibration
from nanbeige_core.recipe.price.estimate import RecipePrice, price_recipe
from nanbeige_core.recipe.price.rates import RateCard, load_rates
from nanbeige_core.report.price_report import assumption_rows, money_text, note_lines, price_json, price_rows

RatesOption = Annotated[Path | None, typer.Option("--rates", help="A rate card (YAML) instead of the shipped one.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Device of the rate card; default: the profile's.")]
CorpusOption = Annotated[
    float | None, typer.Option("--corpus-tokens", min=1, help="Price the data stages for a corpus of this many tokens.")
]
RangesOption = Annotated[bool, typer.Option("--ranges", help="Print low - high instead of expected values.")]
CalibrateOption = Annotated[bool, typer.Option("--calibrate", help="Measure this machine first and keep the result.")]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", help="Where it is kept; default: .cache of a local store.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(price)


def price(
    profile: ProfileOption = "laptop",
    overrides: SetOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    rates: RatesOption = None,
    device: DeviceOption = "",
    corpus_tokens: CorpusOption = None,
    calibrate: CalibrateOption = False,
    calibration: CalibrationOption = None,
    ranges: RangesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what every stage costs: tokens, FLOPs, device-hours, memory, storage, money. Reads no artifact."""
    recipe, card = load_recipe(file, profile=profile, overrides=overrides), load_rates(rates) if rates else load_rates()
    path = calibration or calibration_path(store)
    if calibrate:
        save_calibration(_measure(recipe, card, device), path)
    priced = price_recipe(recipe, card, device=device, calibration=load_calibration(path), corpus_tokens=corpus_tokens)
    if as_json:
        print(json.dumps(price_json(priced), indent=1))
        return
    _print(priced, bounds=ranges)
    if calibrate:
        console.print(f"The measurement is kept in {path}.", highlight=False)


def _measure(recipe: Recipe, rates: RateCard, device: str) -> Calibration:
    from nanbeige_core.megatron.throughput import calibrate

    name = device or recipe.file.profiles[recipe.profile].device
    rates.device(name)
    print(f"Measuring {name}: training steps, forward passes and sampling of the student.", file=sys.stderr)
    return calibrate(recipe, name)


def _print(priced: RecipePrice, *, bounds: bool) -> None:
    title = f"{priced.recipe.file.recipe} · profile {priced.recipe.profile} · {priced.rates.title}"
    console.print(_table(price_rows(priced, bounds=bounds), title))
    total = priced.total()
    low, high = money_text(total.money.low), money_text(total.money.high)
    console.print(
        f"~ estimated; unmarked: the recipe fixes it. {priced.rates.currency} {low} - {high} in all; --ranges shows "
        "every bound. Time: one stage after another. ! does not fit the device.",
        style="dim",
        highlight=False,
    )
    console.print(_basis(priced), style="dim", highlight=False)
    print_rows([_rounded(row) for row in assumption_rows(priced)], "What this rests on")
    for line in note_lines(priced):
        console.print(f"[yellow]note[/yellow] {escape(line)}", highlight=False)


def _table(rows: list[dict[str, str]], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("stage", "on") else "right", overflow="fold")
    *stages, total = rows
    for row in stages:
        table.add_row(*map(escape, row.values()), style="red" if row["memory"].endswith("!") else "")
    table.add_section()
    table.add_row(*map(escape, total.values()), style="bold")
    return table


def _basis(priced: RecipePrice) -> str:
    if priced.calibration is None:
        return f"{priced.device} by the rate card; `nanbeige price --calibrate` measures this machine instead."
    return f"{priced.device} as measured on {priced.calibration.machine}, {priced.calibration.measured[:16]}."


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
