"""Draw training loss, held-out loss and learning rate over the four FG-WSD phases of a run.

Usage: python docs/plot_pretraining.py STORE OUT.png
"""

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store

PHASES = ("fgwsd_warmup", "fgwsd_diverse_stable", "fgwsd_hq_stable", "fgwsd_decay")


def newest(store: Store, stage: str) -> Manifest:
    """Return the newest artifact of a stage."""
    return store.manifests(stage)[0]


def main(store_path: str, out: str) -> None:
    """Read the phases' histories from the store and write the picture."""
    store = Store(store_path, Path(store_path) / ".cache")
    figure = Figure(figsize=(8, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    rate = axes.twinx()
    held_out: list[tuple[float, float]] = []
    for phase in PHASES:
        manifest = newest(store, phase)
        state = json.loads((store.local_path(manifest) / "state.json").read_text())
        tokens = [row["tokens"] / 1e3 for row in state["history"]]
        axes.plot(tokens, [row["loss"] for row in state["history"]], linewidth=0.8, label=phase)
        rate.plot(tokens, [row["lr"] for row in state["history"]], color="black", linewidth=0.8, alpha=0.5)
        gain = manifest.outcome.gain
        assert gain is not None
        held_out += [(0.0, gain.before)] if not held_out else []
        held_out.append((tokens[-1], gain.after))
    axes.plot(*zip(*held_out, strict=True), "o-", color="black", markersize=4, label="held-out")
    axes.set_xlabel("thousand tokens")
    axes.set_ylabel("nats per token")
    rate.set_ylabel("learning rate")
    axes.legend(fontsize=7, loc="lower left")
    FigureCanvasAgg(figure).print_png(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
