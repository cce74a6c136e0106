"""componentize-py with constant random numbers, so that two builds of one guest use the same fuel for the same program.

The interpreter is started while the component is built and snapshotted then; its hash seed comes from the host's random
numbers, and componentize-py hands on no PYTHONHASHSEED (its issue 247). Its library asks the system's getrandom in two
places: the Rust crate of that name keeps the function's address in a static variable, Rust's own maps import it. Both
are pointed at a function that returns a constant pattern, in the process of the build alone.

Where the library is no ELF file or has neither name, the build goes on with the system's random numbers; two builds are
then told apart by `component.build_digest`. Called as a program, with componentize-py's arguments.
"""

import ctypes
import mmap
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_STATIC, _IMPORTED = "GETRANDOM_FN", "getrandom"


def addresses(library: Path) -> list[int]:
    """Return where a shared library keeps the address of getrandom: offsets from where it is loaded, or nothing."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as stream:
        try:
            elf: Any = ELFFile(stream)
            symbols, imports = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".rela.dyn")
            names = elf.get_section_by_name(".dynsym")
            found = [one["st_value"] for one in symbols.iter_symbols() if one.name.endswith(_STATIC)] if symbols else []
            if imports and names:
                wanted = {i for i, one in enumerate(names.iter_symbols()) if one.name == _IMPORTED}
                found += [one["r_offset"] for one in imports.iter_relocations() if one["r_info_sym"] in wanted]
        except ELFError:
            return []
    return [int(address) for address in found]


def steady_random() -> Any:
    """Return a compiled function with getrandom's arguments that always writes the same bytes."""
    from numba import carray, cfunc, types  # pyright: ignore[reportPrivateImportUsage]

    @cfunc(types.int64(types.CPointer(types.uint8), types.uint64, types.uint32))
    def fill(buffer: Any, size: int, flags: int) -> int:  # pyright: ignore[reportUnusedParameter]
        written = carray(buffer, (size,))
        for number in range(size):
            written[number] = number % 251
        return size

    return fill


def redirect(library: Path, function: int) -> int:
    """Point what this process has loaded of a library at another getrandom; return in how many places."""
    start = _loaded_at(library)
    if start is None:
        return 0
    places = addresses(library)
    libc = ctypes.CDLL(None, use_errno=True)
    for place in places:
        address = start + place
        page = address & ~(mmap.PAGESIZE - 1)  # imported names are read-only once the library is loaded
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE):
            raise OSError(ctypes.get_errno(), "the build's random numbers cannot be made constant: mprotect failed")
        ctypes.c_void_p.from_address(address).value = function
    return len(places)


def _loaded_at(library: Path) -> int | None:
    maps = Path("/proc/self/maps")
    for line in maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and Path(fields[5]).name == library.name and int(fields[2], 16) == 0:
            return int(fields[0].split("-")[0], 16)
    return None


def main() -> None:
    """Build as componentize-py's own command does."""
    library: Any = import_module("componentize_py.componentize_py")
    random = steady_random()
    redirect(Path(library.__file__), random.address)
    sys.exit(library.script())


if __name__ == "__main__":
    main()
