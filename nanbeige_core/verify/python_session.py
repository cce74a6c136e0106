"""A stateful Python tool on top of the stateless sandbox: every call replays the cells before it.

The WebAssembly engine is deterministic (no clock, no randomness), so a replayed cell does exactly what it did the
first time: the state needs no process of its own that could hang, leak or be left behind. What earlier cells print is
not shown again.
"""

import json

from nanbeige_core.verify.sandbox import FUEL_PER_TEST, Program, Sandbox

LONGEST_CELL, LONGEST_OUTPUT, MOST_CELLS = 8_000, 4_000, 16
"""characters, characters, cells"""
_HARNESS = """
import contextlib, io, traceback
cells = __CELLS__
names = {"__name__": "__main__"}
for cell in cells[:-1]:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(compile(cell, "cell", "exec"), names)
        except Exception:
            pass
try:
    try:
        value = eval(compile(cells[-1], "cell", "eval"), names)
    except SyntaxError:
        exec(compile(cells[-1], "cell", "exec"), names)
    else:
        if value is not None:
            print(repr(value))
except Exception as error:
    print("".join(traceback.format_exception_only(type(error), error)).strip())
"""


class PythonSession:
    """One conversation's interpreter."""

    def __init__(self, sandbox: Sandbox, *, fuel: int = 4 * FUEL_PER_TEST) -> None:
        self._sandbox, self._fuel = sandbox, fuel
        self._cells: list[str] = []

    def run(self, cell: str) -> str:
        """Run a cell after all earlier ones; return what it printed, its value, its error, or the limit it hit.

        A cell that ended at a limit leaves the session as it was before it.
        """
        if len(cell) > LONGEST_CELL or len(self._cells) >= MOST_CELLS:
            return f"refused: at most {MOST_CELLS} cells of {LONGEST_CELL} characters"
        cells = [*self._cells, cell]
        source = _HARNESS.replace("__CELLS__", repr(json.loads(json.dumps(cells))))
        (result,) = self._sandbox.run([Program(source, None, [""], self._fuel * len(cells))])
        if result.cause != "completed":
            return f"stopped: {result.cause}: {result.detail}"
        self._cells = cells
        output = str(result.values[0])
        return output if len(output) <= LONGEST_OUTPUT else output[:LONGEST_OUTPUT] + "\n... cut"
