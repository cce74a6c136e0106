import time

import pytest

from nanbeige_core.data.cores import map_in_order


@pytest.mark.parametrize("workers", [1, 3])
def test_values_come_in_the_order_of_their_items_and_few_are_under_way(workers: int) -> None:
    begun: list[int] = []

    def late_first(item: int) -> int:
        begun.append(item)
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    values = map_in_order(late_first, range(50), workers)
    assert next(values) == 0
    assert len(begun) <= 2 * workers + 1
    assert list(values) == [item * item for item in range(1, 50)]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_ends_the_map(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda item: 1 // (item - 4), range(100), workers))
