#!/bin/sh
# Create the virtual environment from the pinned lock. Called by the Makefile; safe to run again.
set -eu

command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
"$PYTHON" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 13)))' || {
    echo "setup: $PYTHON is $("$PYTHON" -V 2>&1); Python 3.11 or 3.12 is needed. Pass PYTHON=/path/to/python3.11." >&2
    exit 1
}
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -y -q python3-venv python3-dev gcc
    else
        echo "setup: the Python venv module is missing; install the system packages python3-venv, python3-dev and gcc." >&2
        exit 1
    fi
}
# pycosat, a dependency of reasoning-gym, is compiled at install time
command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -y -q gcc python3-dev
    else
        echo "setup: a C compiler is missing; install the system packages gcc and python3-dev." >&2
        exit 1
    fi
}

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install -q --upgrade "pip==26.3" "setuptools==84.2.1" "wheel==0.48.0"

torch=$(grep '^torch==' "$LOCK")
if [ -n "${TORCH_INDEX:-}" ]; then
    "$VENV/bin/python" -m pip install -q --no-deps --index-url "$TORCH_INDEX" "$torch"
else
    "$VENV/bin/python" -m pip install -q --no-deps "$torch"
fi
if ! command -v nvidia-smi >/dev/null 2>&1; then
    "$VENV/bin/python" - <<'PY' || exit 1
import sys
from importlib.metadata import version
if "+cpu" not in version("torch"):
    try:
        import torch
        if torch.version.cuda is None:
            sys.exit(0)
    except (ImportError, OSError):
        pass
    print("setup: pip's index served a CUDA build of torch on a machine without a GPU. "
          "Run again with TORCH_INDEX=<the url of a wheel index with CPU builds of torch>.", file=sys.stderr)
    sys.exit(1)
PY
fi
# the lock is complete, so nothing is resolved and no CUDA wheel can come in
grep -v '^torch==' "$LOCK" > "$VENV/lock-without-torch.txt"
"$VENV/bin/python" -m pip install -q --no-deps -r "$VENV/lock-without-torch.txt"
"$VENV/bin/python" -m pip install -q --no-deps --no-build-isolation -e .
# the code sandbox: CPython as a WebAssembly component, built once (about half a minute)
"$VENV/bin/python" -m nanbeige_core.verify.component
# the kernels of deduplication and encoding (about half a minute), so that the first run does not wait for them
"$VENV/bin/python" -m nanbeige_core.data.compiled
