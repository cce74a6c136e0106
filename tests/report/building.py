"""Artifacts with real small files for tests of pages: sealed under the fingerprints of the shipped laptop recipe."""

import json
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Gain, Outcome, Section
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Plan, make_plan
from tests.artifacts.making import draft, fill_layout
from tests.conftest import RECIPE_FILE

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> | [x](javascript:1)"
PROBLEM = "How many is one and one?"
STEPS = [{"step": step, "loss": 2.0 - step / 10} for step in range(8)]
TOKENS = [{"tokens": 2048 * step, "loss": 9.0 - step / 5, "lr": 0.0025 * step / 10} for step in range(1, 11)]


def plan_of(store: Store) -> Plan:
    return make_plan(load_recipe(RECIPE_FILE, profile="laptop"), store)


def seal_stage(
    store: Store, plan: Plan, name: str, outcome: Outcome, files: Mapping[str, Callable[[Path], None]]
) -> Manifest:
    """Seal a planned stage's artifact with the given files over placeholders for the rest of its layout."""
    planned = plan.stages[name]
    work = store.work_directory(name, planned.fingerprint)
    kind = planned.stage.spec.produces
    fill_layout(work, kind)
    for placeholder in work.rglob("*.parquet") if files else ():
        placeholder.unlink()
    for file, write in files.items():
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        write(work / file)
    made = draft(name, planned.fingerprint, kind, planned.identity)
    known = {key: store.find(up, plan.stages[up].fingerprint) for key, up in planned.stage.inputs.items()}
    update = {
        "outcome": outcome,
        "uses": planned.stage.spec.uses,
        "inputs": {key: found.reference for key, found in known.items() if found},
    }
    return store.seal(work, made.model_copy(update=update))


def as_json(value: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(value)) and None


def as_table(rows: list[dict[str, Any]]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.Table.from_pylist(rows), path)


def trained(history: list[dict[str, float]], gain: Gain, *sections: Section) -> tuple[Outcome, dict[str, Any]]:
    outcome = Outcome(summary=f"trained {HOSTILE}", gain=gain, tokens=1234, sections=list(sections))
    return outcome, {"state.json": as_json({"history": history})}


def partial_run(store: Store) -> tuple[Plan, dict[str, Manifest]]:
    """Seal one stage of each sort that a page draws: a phase, SFT, DPD, filter, RL and evaluation."""
    plan = plan_of(store)
    made: dict[str, Manifest] = {}

    def add(name: str, outcome: Outcome, files: Mapping[str, Callable[[Path], None]]) -> None:
        made[name] = seal_stage(store, plan, name, outcome, files)

    prompts = [{"id": "p-1", "domain": "math", "split": "eval", "prompt": PROBLEM, "answer": "2"}]
    add("problems", Outcome(summary="problems"), {"prompts.parquet": as_table(prompts)})
    loss = Gain(metric="validation loss", before=9.0, after=7.0, n=48, low=-2.1, high=-1.9, higher_is_better=False)
    blend = Section(title="Blend", table=[{"set": "hq-code", "weight": 0.6}, {"set": "mq-web", "weight": 0.4}])
    add("fgwsd_warmup", *trained(TOKENS, loss, blend))
    domains = Section(title="Validation loss by domain", table=[{"domain": "math", "before": 2.0, "after": 1.0}])
    samples = Section(title="Held-out samples", table=[{"prompt": "p-1", "before": HOSTILE, "after": HOSTILE}])
    score = Gain(metric="heldout_exact_match", before=0.1, after=0.3, n=300, low=0.15, high=0.25)
    add("cold_start_sft", *trained(STEPS, score, domains, samples))
    terms = [{"step": s, "dpo": 0.7, "positive_kl": 0.1, "negative_kl": 0.4, "margin": 0.1 * s} for s in range(5)]
    unclear = Gain(metric="heldout_exact_match", before=0.3, after=0.3, n=300, low=-0.02, high=0.02)
    add("dpd", *trained(terms, unclear))
    rates = [{"prompt_id": f"p-{at}", "samples": 8, "correct": at, "unscored": 0, "rate": at / 8} for at in range(9)]
    answers = [{"prompt_id": "p-1", "text": HOSTILE, "verdict": "wrong", "reason": "different"}]
    files = {"pass_rates.parquet": as_table(rates), "rollouts.parquet": as_table(answers)}
    add("pass_rates_stem", Outcome(summary="rates"), files)
    add("filter_stem", Outcome(summary="7 of 9 kept"), {"prompts.parquet": as_table(prompts)})
    rewards = [{"step": s, "reward": 0.2 + s / 50, "dead_group_share": 0.3} for s in range(10)]
    worse = Gain(metric="held-out pass rate", before=0.3, after=0.1, n=100, low=-0.3, high=-0.1)
    add("rl_stem", *trained(rewards, worse))
    add("evaluate", Outcome(summary="scores", gain=score), {"report.json": as_json(_evaluation())})
    return plan, made


def _evaluation() -> dict[str, object]:
    results = [
        {"checkpoint": name, "suite": suite, "mean": mean, "standard_error": 0.017, "problems": 50}
        for name, mean in (("base", 0.031), ("final", 0.642))
        for suite in ("math", "code")
    ]
    attempts = [
        {"checkpoint": name, "suite": "math", "prompt_id": "p-1", "text": HOSTILE, "outcome": outcome, "reason": ""}
        for name, outcome in (("base", "wrong"), ("final", "correct"))
    ]
    return {"results": results, "attempts": attempts}


class Page(HTMLParser):
    """A page as a browser takes it apart: tags, attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def ids(self) -> set[str]:
        return {value for _, name, value in self.attributes if name == "id"}

    def outside(self) -> list[tuple[str, str, str]]:
        """Attributes that could make a browser load or run something from elsewhere."""
        return [
            (tag, name, value)
            for tag, name, value in self.attributes
            if name.startswith("on")
            or (name in {"src", "href", "xlink:href", "action", "srcset", "poster", "data"}
                and (":" in value or value.startswith("//")) and not value.startswith("data:image/"))
            or ("url(" in value and "url(#" not in value)
        ]  # fmt: skip
