"""`python -m flows.faults`: every kind of fault, those of the core and those around a run, in one table."""

import sys

from flows.faults.kinds import SERVER_KINDS
from nanbeige_core.faults.__main__ import LONG, main
from nanbeige_core.faults.kinds import KINDS

_LONG = dict.fromkeys(SERVER_KINDS, 5)

if __name__ == "__main__":
    sys.exit(main(KINDS | SERVER_KINDS, {**LONG, **_LONG}, program="python -m flows.faults"))
