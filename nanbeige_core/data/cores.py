"""An ordered map over cores.

Threads, not processes: the kernels, Arrow, SciPy and the tokenizers release the lock, a thread starts in no time, and
nothing is copied. What a function returns must not depend on the other calls; then no result depends on the cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from nanbeige_core.data.allocation import return_arrow_memory

Item = TypeVar("Item")
Value = TypeVar("Value")


def map_in_order(function: Callable[[Item], Value], items: Iterable[Item], workers: int) -> Iterator[Value]:
    """Yield `function(item)` in the order of the items, on `workers` threads; one of them is no thread at all.

    At most two items for each worker are under way or waiting to be taken. The first error ends the map.
    """

    def call(item: Item) -> Value:
        try:
            return function(item)
        finally:
            # what Arrow keeps of freed memory it keeps for each thread, and these threads end
            return_arrow_memory()

    if workers <= 1:
        yield from map(call, items)
        return
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Value]] = deque(pool.submit(call, item) for item in islice(source, 2 * workers))
        try:
            while waiting:
                value = waiting.popleft().result()
                waiting.extend(pool.submit(call, item) for item in islice(source, 1))
                yield value
        finally:
            for future in waiting:
                future.cancel()
