from pathlib import Path

import pytest

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.price.ranges import NOTHING, Range
from nanbeige_core.recipe.price.rates import SHIPPED, load_rates


def changed(tmp_path: Path, before: str, after: str) -> Path:
    text = SHIPPED.read_text()
    assert before in text
    path = tmp_path / "rates.yaml"
    path.write_text(text.replace(before, after))
    return path


def test_every_value_of_the_shipped_card_names_its_source() -> None:
    card = load_rates()
    assert all(row["source"] for row in card.assumptions.rows())
    assert all(device.hour.source for device in card.devices.values())


def test_crossing_bounds_are_refused_with_their_place(tmp_path: Path) -> None:
    path = changed(tmp_path, "storage_month: {low: 5,", "storage_month: {low: 500,")
    with pytest.raises(RecipeError, match=r"storage_month: .*low 500 <= expected 23 <= high 30 does not hold"):
        load_rates(path)


def test_a_value_without_a_source_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, "memory: {exactly: 141.0e9, source: NVIDIA H200 data sheet}", "memory: {exactly: 141.0e9}")
    with pytest.raises(RecipeError, match=r"devices.h200-sxm.memory.source: Field required"):
        load_rates(path)


def test_a_misspelt_key_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="storage_months"):
        load_rates(changed(tmp_path, "storage_month:", "storage_months:"))
    with pytest.raises(RecipeError, match="no rate card at"):
        load_rates(tmp_path / "none.yaml")


def test_a_core_that_has_no_price_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cloud-core"):
        load_rates(changed(tmp_path, "core: cloud-core", "core: clod-core"))


def test_bounds_of_a_quotient_swap_the_divisor_s() -> None:
    assert Range(10, 20, 30) / Range(1, 2, 5) == Range(2, 10, 30)
    assert Range(1, 2, 3) + 1 == Range(2, 3, 4)
    assert 2 * Range(1, 2, 3) == Range(2, 4, 6)
    assert Range.total([]) == NOTHING


def test_a_range_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="low <= expected <= high, found 2, 1, 3"):
        Range(2, 1, 3)
