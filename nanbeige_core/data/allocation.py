"""How memory goes back to the system, so that what a stage once held does not add up over its steps.

Freed is not returned: the C library keeps a heap for each thread and raises, each time a large block is freed, the size
below which blocks stay in it (to 32 MB); Arrow's allocator keeps pages of threads that ended. A stage that goes through
a pool ten times then seems to grow with the pool, although it holds a part of it at a time.
"""

import ctypes
import functools

import pyarrow as pa

LARGE_BYTES = 1 << 20
"""A block of this size has pages of its own, which go back when it is freed."""

KEPT_BYTES = 8 << 20
"""Free memory at the end of a heap that is kept for what comes next."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from malloc.h."""


def return_large_blocks() -> None:
    """Make the C library return large blocks when they are freed; where it is not the GNU one, nothing happens."""
    library = _library()
    if library:
        library.mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
        library.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


def return_arrow_memory() -> None:
    """Return what Arrow keeps of memory that was freed in this thread, or in threads that ended."""
    pa.default_memory_pool().release_unused()


def return_free_memory() -> None:
    """Return what Arrow and the C library keep of freed memory; takes milliseconds, so it is for the end of a step."""
    return_arrow_memory()
    library = _library()
    if library:
        library.malloc_trim(0)


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
