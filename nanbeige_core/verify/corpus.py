"""Honest programs with known verdicts, drawn from a seed: right, wrong, failing, endless and merely slow ones.

An engine whose verdicts depend on how busy the machine is turns such a corpus into a different one; `sandbox.py` under
`benchmarks/` judges it alone and sixteen at a time. Expected values are computed here, not by the programs.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from random import Random
from typing import Any

from nanbeige_core.verify.sandbox import FUEL_PER_TEST, Needs
from nanbeige_core.verify.verdict import Judgement, Verdict, VerificationRequest

TESTS = 3
SLOW_STEPS: Mapping[Needs, int] = {"stdlib": 100_000, "system": 1_500_000}
"""Loops of a slow program: an eighth of its instruction budget, a tenth of its limit of processor time."""


@dataclass(frozen=True)
class Task:
    """A function of a list of integers and a constant `k`: its text, and its value as it is known here."""

    text: str
    value: Callable[[list[int], int], Any]


@dataclass(frozen=True)
class Ending:
    """What becomes of a right program: statements before its result, the result, and the verdict it deserves."""

    share: int
    outcome: Judgement
    reasons: frozenset[str]
    before: str = "pass"
    result: str = "value"
    head: str = ""


@dataclass(frozen=True)
class HonestProgram:
    """A response to judge, the kind of program it holds, and the verdict it deserves on every engine."""

    kind: str
    request: VerificationRequest
    outcome: Judgement
    reasons: frozenset[str]


TASKS: Mapping[str, Task] = {
    "sum": Task("sum(x * {k} for x in xs)", lambda xs, k: sum(x * k for x in xs)),
    "sorted": Task(
        "sorted(set(xs), key=lambda x: (x % {k}, x))", lambda xs, k: sorted(set(xs), key=lambda x: (x % k, x))
    ),
    "counts": Task(
        "dict(sorted(collections.Counter(x % {k} for x in xs).items()))",
        lambda xs, k: dict(sorted(Counter(x % k for x in xs).items())),
    ),
    "text": Task("'-'.join(str(x % {k}) for x in xs)", lambda xs, k: "-".join(str(x % k) for x in xs)),
    "running": Task("list(itertools.accumulate(xs))[:{k}]", lambda xs, k: list(accumulate(xs))[:k]),
    "any": Task("any(x % {k} == 0 for x in xs)", lambda xs, k: any(x % k == 0 for x in xs)),
    "mean": Task("sum(xs) / len(xs) / {k}", lambda xs, k: sum(xs) / len(xs) / k),
    "runs": Task(
        "[(key, len(list(group))) for key, group in itertools.groupby(x > {k} for x in xs)]",
        lambda xs, k: [(key, len(list(group))) for key, group in groupby(x > k for x in xs)],
    ),
}
FAILED = frozenset({"error"})
ENDINGS: Mapping[str, Ending] = {
    "right": Ending(44, "correct", frozenset({"all tests"})),
    "slow": Ending(8, "correct", frozenset({"all tests"}), "for n in range({steps}): xs[0] = xs[0] + n - n"),
    "prints": Ending(6, "correct", frozenset({"all tests"}), "sys.stderr.write('a note' * 1000)"),
    "wrong": Ending(14, "wrong", frozenset({"no test"}), result="[value]"),
    "partly wrong": Ending(10, "wrong", frozenset({"some tests"}), result="value if len(xs) < 9 else [value]"),
    "fails": Ending(4, "wrong", FAILED, "xs[len(xs)]"),
    "fails late": Ending(4, "wrong", FAILED, "1 // (len(xs) < 9)"),
    "exits": Ending(3, "wrong", FAILED, "sys.exit(3)"),
    "recurses": Ending(2, "wrong", FAILED, "f(xs)"),
    "no program": Ending(2, "wrong", FAILED, head="def f(xs:"),
    "endless": Ending(3, "wrong", frozenset({"cpu_limit"}), "while True: pass"),
}


def draw_corpus(count: int, *, seed: int, needs: Needs) -> list[HonestProgram]:
    """Return `count` programs, each with its constant and inputs; every kind and both styles are among 100 of them."""
    random = Random(seed)
    shares = [ending.share for ending in ENDINGS.values()]
    kinds = [*ENDINGS, *random.choices(list(ENDINGS), shares, k=count)][:count]
    return [_draw(random, number, kind, needs) for number, kind in enumerate(kinds)]


def _draw(random: Random, number: int, kind: str, needs: Needs) -> HonestProgram:
    ending, task = ENDINGS[kind], random.choice(list(TASKS.values()))
    k, scripted = random.randint(2, 9), random.random() < 0.4
    # the last input alone is long: programs that are wrong or fail on long ones pass the first tests
    inputs = [[random.randint(-99, 99) for _ in range(random.randint(3, 8))] for _ in range(TESTS - 1)]
    inputs.append([random.randint(-99, 99) for _ in range(9)])
    tests = [(xs, task.value(xs, k)) for xs in inputs]
    spec: dict[str, Any] = {"needs": needs, "fuel": FUEL_PER_TEST}
    if scripted:
        spec |= {"style": "stdin", "private": [[" ".join(map(str, xs)) + "\n", f"{value}\n"] for xs, value in tests]}
    else:
        spec |= {"entry": "f", "private": [[[xs], value] for xs, value in tests]}
    text = f"```python\n{_source(ending, task, k, scripted, needs)}\n```"
    request = VerificationRequest(f"{kind} {number}", text, spec)
    return HonestProgram(kind, request, ending.outcome, ending.reasons)


def _source(ending: Ending, task: Task, k: int, scripted: bool, needs: Needs) -> str:
    lines = [
        "import collections, itertools, sys",
        ending.head or "def f(xs):",
        f"    value = {task.text.format(k=k)}",
        f"    {ending.before.format(steps=SLOW_STEPS[needs])}",
        f"    return {ending.result}",
    ]
    return "\n".join([*lines, *(["print(f(list(map(int, input().split()))))"] if scripted else [])])


def misjudged(corpus: Sequence[HonestProgram], verdicts: Sequence[Verdict]) -> list[str]:
    """Describe every verdict that a program does not deserve."""
    return [
        f"{program.request.prompt_id}: judged {verdict.outcome} ({verdict.reason}), it is {program.outcome}"
        for program, verdict in zip(corpus, verdicts, strict=True)
        if verdict.outcome != program.outcome or verdict.reason not in program.reasons
    ]
