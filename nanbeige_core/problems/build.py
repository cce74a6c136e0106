"""The `problems` stage: fill every split from the families, with no question in two splits."""

from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from random import Random
from typing import get_args

import pyarrow as pa

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.data.tables import write_rows
from nanbeige_core.problems import agent, arithmetic, conversation, programs, science, word_problems
from nanbeige_core.problems.problem import Domain, Family, Language, Problem, is_reserved, question_key
from nanbeige_core.recipe.configs.problems import DomainCounts, ProblemsConfig
from nanbeige_core.verify.sandbox import open_sandbox

COLUMNS = (
    "id", "domain", "split", "language", "prompt", "reasoning", "answer", "verifier", "spec", "source", "group",
)  # fmt: skip
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
# measured splits draw first: small pools must not be used up by training
SPLITS = ("eval", "heldout", "rl", "overall", "sft", "pretrain")
MEASURED = frozenset({"eval", "heldout"})
MOST_REJECTED = 2000
"""Drawn problems in a row that may be repetitions before a family counts as exhausted."""


class Shortage(RuntimeError):
    """A pool holds fewer problems than the config wants."""


class Drawer:
    """Hand out problems so that a question is given once, and reserved operands to measured splits only."""

    def __init__(self, config: ProblemsConfig, families: list[Family], pools: dict[str, list[Problem]]) -> None:
        self._config = config
        self._families = families
        self._random = Random(f"{config.seed}/drawer")
        self._taken: set[str] = set()
        self.rejected = Counter[str]()
        self._pools = {
            (name, reserved): [p for p in pool if is_reserved(p.group) == reserved]
            for name, pool in pools.items()
            for reserved in (False, True)
        }
        for pool in self._pools.values():
            self._random.shuffle(pool)

    def draw(self, domain: Domain, wanted: int, *, measured: bool) -> list[Problem]:
        """Return `wanted` new problems of one domain; raise Shortage when they cannot be had."""
        drawn: list[Problem] = []
        if domain == "math":
            words = min(round(wanted * self._config.word_problem_share), self._left("word", measured=measured))
            drawn += self._from_pool("word", words, measured=measured)
        if domain in ("code", "general"):
            drawn += self._from_pool(domain, wanted, measured=measured)
        else:
            drawn += self._from_families(domain, wanted - len(drawn), measured=measured)
        return drawn

    def _left(self, pool: str, *, measured: bool) -> int:
        return len(self._pools[pool, measured]) // (3 if measured else 4)

    def _from_pool(self, name: str, wanted: int, *, measured: bool) -> list[Problem]:
        pool = self._pools[name, measured]
        drawn: list[Problem] = []
        while len(drawn) < wanted:
            if not pool:
                raise Shortage(
                    f"the pool of {name} problems ({'measured' if measured else 'training'} side) ran out at "
                    f"{len(drawn)} of {wanted}. Lower the {name} counts of the `problems` stage in pipelines.yaml."
                )
            problem = pool.pop()
            if self._accept(problem, measured=measured):
                drawn.append(problem)
        return drawn

    def _from_families(self, domain: Domain, wanted: int, *, measured: bool) -> list[Problem]:
        drawn: list[Problem] = []
        rejected = 0
        while len(drawn) < wanted:
            problem = self._generate(domain)
            if problem is not None and self._accept(problem, measured=measured):
                drawn.append(problem)
                rejected = 0
                continue
            rejected += 1
            if rejected > MOST_REJECTED:
                raise Shortage(
                    f"{MOST_REJECTED} draws in a row gave no new {domain} problem, {len(drawn)} of {wanted} found. "
                    f"Lower the {domain} counts of the `problems` stage in pipelines.yaml."
                )
        return drawn

    def _generate(self, domain: Domain) -> Problem | None:
        families = [family for family in self._families if family.domain == domain]
        easy = [family for family in families if family.easy]
        if easy and self._random.random() >= self._config.hard_share:
            families = easy
        elif easy:
            families = [family for family in families if not family.easy]
        family = self._random.choices(families, [family.weight for family in families])[0]
        language: Language = "zh" if self._random.random() < self._config.chinese_share else "en"
        return family.generate(self._random, language)

    def _accept(self, problem: Problem, *, measured: bool) -> bool:
        key = question_key(problem.prompt)
        if key in self._taken:
            self.rejected["repeated_question"] += 1
            return False
        if is_reserved(problem.group) != measured:
            self.rejected["operands_of_other_side"] += 1
            return False
        self._taken.add(key)
        return True


def open_pools(config: ProblemsConfig, cache: Path, processes: int) -> tuple[dict[str, list[Problem]], Counter[str]]:
    """Read or synthesise the finite pools: word problems, programs and conversation."""
    counts = Counter[str]()
    total = _totals(config)
    wanted_words = round(total.math * config.word_problem_share)
    words: list[Problem] = []
    languages = {"en", "zh"} if config.pool_language == "both" else {config.pool_language}
    if wanted_words:
        words, word_counts = word_problems.read_word_problems(
            cache,
            # 200 templates; measured splits take from a fifth of the groups, and long questions are dropped
            per_template=max(2, round(1.6 * wanted_words / 200)),
            seed=config.seed,
            longest=config.word_problem_characters,
        )
        counts.update(word_counts)
    with open_sandbox(workers=processes, cache=cache) as sandbox:
        code, code_counts = programs.synthesise(
            sandbox,
            seed=config.seed,
            # every program has four wordings a language; more than that share, as a fifth of the groups is reserved
            wanted=max(64, round(total.code * 0.3 * 2 / len(languages))),
            tests=config.tests_per_program,
            public=config.public_tests,
            fuel_per_test=config.fuel_per_test,
            stdin_share=config.stdin_share,
        )
    counts.update(code_counts)
    pools = {"word": words, "code": code, "general": conversation.read_conversation(cache, seed=config.seed)}
    return {name: [p for p in pool if p.language in languages] for name, pool in pools.items()}, counts


def _totals(config: ProblemsConfig) -> DomainCounts:
    splits: list[DomainCounts] = [getattr(config, split) for split in SPLITS]
    return DomainCounts(**{d: sum(getattr(s, d) for s in splits) for d in get_args(Domain)})


def fill_splits(config: ProblemsConfig, drawer: Drawer) -> Iterator[dict[str, str]]:
    """Yield the rows of every split, measured splits first."""
    for split in SPLITS:
        counts: DomainCounts = getattr(config, split)
        for domain in get_args(Domain):
            for problem in drawer.draw(domain, getattr(counts, domain), measured=split in MEASURED):
                yield problem.row(split)


def count_overlaps(rows: list[dict[str, str]]) -> dict[str, int]:
    """Count questions that stand in two splits, and measured operand groups that training also uses."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(question_key(row["prompt"]), set()).add(row["split"])
    measured = {row["group"] for row in rows if row["split"] in MEASURED}
    training = {row["group"] for row in rows if row["split"] not in MEASURED}
    return {
        "questions_in_two_splits": sum(len(found) > 1 for found in splits.values()),
        "measured_operands_in_training": len(measured & training),
    }


def run(job: Job) -> Outcome:
    """Build `prompts.parquet` (see `Problem.row`); fails when any question stands in two splits."""
    config: ProblemsConfig = job.config
    job.progress(0.05, "reading word problems and dialogues, synthesising programs")
    pools, counts = open_pools(config, job.cache, job.runtime.processes)
    families = [
        *arithmetic.open_families(config.seed),
        *science.open_families(config.science_largest_factor),
        *agent.open_families(),
    ]
    job.progress(0.6, "filling the splits")
    drawer = Drawer(config, families, pools)
    rows = list(fill_splits(config, drawer))
    overlaps = count_overlaps(rows)
    if any(overlaps.values()):
        raise RuntimeError(f"splits overlap: {overlaps}, expected 0. This is a defect of problems/build.py.")
    write_rows(job.work / "prompts.parquet", SCHEMA, rows)
    counts.update(rows=len(rows), **overlaps)
    counts.update({f"rejected_{reason}": number for reason, number in drawer.rejected.items()})
    return Outcome(
        summary=f"{len(rows)} problems in {len(SPLITS)} disjoint splits, "
        f"{sum(row['language'] == 'zh' for row in rows) / max(1, len(rows)):.0%} in Chinese.",
        counts=dict(counts),
        sections=report_sections(rows),
    )


def report_sections(rows: list[dict[str, str]]) -> list[Section]:
    """Describe the splits by domain, the sources, and show one sample of each source."""
    cells = Counter((row["split"], row["domain"]) for row in rows)
    table = [{"split": s, **{d: cells[s, d] for d in get_args(Domain)}} for s in reversed(SPLITS)]
    sources = Counter("/".join(row["source"].split("/")[:2]) for row in rows)
    samples = {row["source"]: row for row in rows}
    shown = [samples[name] for name, _ in zip(sorted(samples), cycle([0]), strict=False)][:: max(1, len(samples) // 24)]
    return [
        Section(title="Problems by split and domain", table=table),
        Section(
            title="Problems by source",
            plot=Plot(
                kind="bar",
                x=list(sources),
                series={"problems": [float(number) for number in sources.values()]},
                x_label="source",
                y_label="problems",
            ),
        ),
        Section(
            title="Samples",
            table=[{k: row[k] for k in ("source", "prompt", "reasoning", "answer")} for row in shown],
        ),
    ]
