"""Synthesise code problems backwards: a solution, then tests by running it, then the statement.

A program is accepted when its reference passes all its tests in the sandbox, in a fresh interpreter that had no part
in producing the expected values, and when every trivial stub fails at least one public and one private test. A program
is asked for as a function of its arguments, or as a script that reads them from standard input and prints.
"""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from nanbeige_core.problems.problem import Language, Problem
from nanbeige_core.problems.program_templates import (
    ASK,
    ASK_SCRIPT,
    PARAMETER,
    READ,
    REASON,
    SPACES,
    TEMPLATES,
    InputKind,
    ProgramTemplate,
)
from nanbeige_core.verify.sandbox import Program, Sandbox
from nanbeige_core.verify.typed_data import same_value

WORDS = ("apple", "bridge", "candle", "dragon", "engine", "forest", "garden", "harbor", "island", "jungle", "kitten")
STUBS: tuple[Any, ...] = (None, 0, 1, -1, True, False, [], "")
BUNDLE = 50
"""Solutions that share an interpreter while their expected values are produced."""
LEVEL_WEIGHT = {1: 3, 2: 2, 3: 1}


class Draft(NamedTuple):
    """A solution with its inputs, before its expected values are known."""

    template: ProgramTemplate
    k: int
    m: int
    source: str
    inputs: list[list[Any]]
    scripted: bool = False

    def runs(self, fuel_per_test: int) -> list[Program]:
        """Return what judging the solution takes: one run for a function, one per test for a script."""
        if self.scripted:
            return [Program(self.source, None, arguments, fuel_per_test) for arguments in self.inputs]
        return [Program(self.source, "f", self.inputs, fuel_per_test)]

    @property
    def group(self) -> str:
        """Name the program independently of its statement."""
        return f"program:{self.template.name}:{self.k},{self.m}"


def draw_argument(kind: InputKind, k: int, m: int, random: Random) -> list[Any]:
    """Draw the arguments of one test; numbers lie around the constants so that limits are crossed."""
    if kind == "int":
        return [random.choice([random.randint(-20, 99), k, k + 1, m - 1, k * random.randint(1, 9)])]
    if kind == "pair":
        return [random.randint(-20, 50), random.randint(-20, 50)]
    if kind == "text":
        return [random.choice(WORDS)[: random.randint(2, 8)]]
    low, high = min(0, k - 8), max(9, k + 8, m + 8)
    values = [random.randint(low, high) for _ in range(random.randint(4, 7))]
    values[random.randrange(len(values))] = random.choice([k, k + 1, 2 * k])
    return [values]


def write_source(template: ProgramTemplate, k: int, m: int) -> str:
    """Write the solution of a template with its constants."""
    return f"def f({PARAMETER[template.takes]}):\n    return {template.body.format(k=k, m=m)}"


def write_script(template: ProgramTemplate, k: int, m: int) -> str:
    """Write the solution as a script; a list is printed as numbers with spaces, as it is read."""
    body = template.body.format(k=k, m=m)
    printed = f"*{body}" if template.takes == "list" and body.endswith("]") else body
    return f"{PARAMETER[template.takes]} = {READ[template.takes]}\nprint({printed})"


def as_script(draft: Draft) -> Draft:
    """Return the same program on the same inputs, read from one line of standard input."""
    lines = [[" ".join(map(str, _flatten(arguments))) + "\n"] for arguments in draft.inputs]
    source = write_script(draft.template, draft.k, draft.m)
    return draft._replace(source=source, inputs=lines, scripted=True)


def _flatten(arguments: list[Any]) -> list[Any]:
    return [value for argument in arguments for value in (argument if isinstance(argument, list) else [argument])]


def draw_draft(template: ProgramTemplate, random: Random, tests: int) -> Draft:
    """Draw constants and distinct inputs for one solution."""
    k, m = random.randint(*template.k), random.randint(*template.m)
    inputs: list[list[Any]] = []
    for _ in range(20 * tests):
        candidate = draw_argument(template.takes, k, m, random)
        if candidate not in inputs:
            inputs.append(candidate)
        if len(inputs) == tests:
            break
    return Draft(template, k, m, write_source(template, k, m), inputs)


def draw_drafts(random: Random, wanted: int, tests: int) -> list[Draft]:
    """Draw different solutions, easier levels more often; fewer than wanted when the templates run out."""
    drafts: dict[str, Draft] = {}
    weights = [LEVEL_WEIGHT[template.level] * 10 for template in TEMPLATES]
    for _ in range(8 * wanted):
        if len(drafts) >= wanted:
            break
        draft = draw_draft(random.choices(TEMPLATES, weights)[0], random, tests)
        drafts.setdefault(draft.group, draft)
    return list(drafts.values())


def fails_on_stubs(tests: Sequence[tuple[list[Any], Any]]) -> bool:
    """Say whether returning a constant, or the first argument, fails at least one of the tests."""
    constant = any(all(same_value(stub, expected) for _, expected in tests) for stub in STUBS)
    echo = all(same_value(arguments[0], expected) for arguments, expected in tests)
    repeats = len(tests) > 1 and all(same_value(tests[0][1], expected) for _, expected in tests)
    return not (constant or echo or repeats)


def state(draft: Draft, ask: int, language: Language) -> tuple[str, str]:
    """Write the statement and the reasoning of a program."""
    template = draft.template
    what = template.statement[language].format(k=draft.k, m=draft.m)
    asked = ASK_SCRIPT if draft.scripted else ASK
    prompt = asked[language][ask].format(p=PARAMETER[template.takes], s=what)
    if draft.scripted and template.takes in ("list", "pair"):
        prompt += SPACES[language]
    body = template.body.format(k=draft.k, m=draft.m)
    return prompt, REASON[language].format(s=what, b=body)


def to_problems(draft: Draft, tests: list[tuple[list[Any], Any]], public: int, fuel: int) -> Iterator[Problem]:
    """Yield every wording of one accepted program."""
    style: dict[str, Any] = {"style": "stdin"} if draft.scripted else {"entry": "f"}
    if draft.scripted:
        tests = [(arguments[0], printed) for arguments, printed in tests]
    spec = style | {"public": tests[:public], "private": tests[public:], "fuel": fuel}
    languages: tuple[Language, ...] = ("en", "zh")
    for language in languages:
        for ask in range(len(ASK[language])):
            prompt, reasoning = state(draft, ask, language)
            yield Problem(
                domain="code",
                language=language,
                prompt=prompt,
                reasoning=reasoning,
                answer=f"```python\n{draft.source}\n```",
                verifier="code",
                source=f"program/{draft.template.name}/level{draft.template.level}",
                group=draft.group,
                spec=spec,
            )


def produce_values(sandbox: Sandbox, drafts: Sequence[Draft], fuel_per_test: int) -> list[list[Any]]:
    """Run the solutions, many functions in one interpreter, and return the values of each; fewer where a run ended.

    Sharing an interpreter is cheap and safe enough for producing values, because a second run in an interpreter of
    its own decides whether they are right.
    """
    functions = [draft for draft in drafts if not draft.scripted]
    bundles = [functions[start : start + BUNDLE] for start in range(0, len(functions), BUNDLE)]
    programs: list[Program] = []
    for bundle in bundles:
        source = "\n".join(d.source.replace("def f(", f"def f{n}(") for n, d in enumerate(bundle))
        source += "\ndef f(n, *arguments):\n    return globals()[f'f{n}'](*arguments)"
        inputs = [[n, *arguments] for n, d in enumerate(bundle) for arguments in d.inputs]
        programs.append(Program(source, "f", inputs, fuel_per_test))
    found: list[list[Any]] = []
    for bundle, result in zip(bundles, sandbox.run(programs), strict=True):
        values = iter(result.values)
        for draft in bundle:
            found.append([value for _, value in zip(draft.inputs, values, strict=False)])
    of_functions = iter(found)
    of_scripts = iter(run_alone(sandbox, [draft for draft in drafts if draft.scripted], fuel_per_test))
    return [next(of_scripts if draft.scripted else of_functions) for draft in drafts]


def run_alone(sandbox: Sandbox, drafts: Sequence[Draft], fuel_per_test: int) -> list[list[Any]]:
    """Run every solution in interpreters that nothing else uses; fewer values than inputs where a run failed."""
    runs = [draft.runs(fuel_per_test) for draft in drafts]
    results = iter(sandbox.run([program for group in runs for program in group]))
    found: list[list[Any]] = []
    for group in runs:
        mine = [next(results) for _ in group]
        found.append([value for result in mine if result.cause == "completed" for value in result.values])
    return found


def synthesise(
    sandbox: Sandbox,
    *,
    seed: int,
    wanted: int,
    tests: int,
    public: int,
    fuel_per_test: int,
    stdin_share: float = 0.0,
) -> tuple[list[Problem], dict[str, int]]:
    """Make `wanted` programs; return all their wordings and the counts of drafts by what became of them."""
    styles = Random(f"{seed}/styles")
    drafts = [
        as_script(draft) if styles.random() < stdin_share else draft
        for draft in draw_drafts(Random(f"{seed}/programs"), wanted, tests)
    ]
    return accept(sandbox, drafts, public=public, fuel_per_test=fuel_per_test)


def accept(
    sandbox: Sandbox, drafts: Sequence[Draft], *, public: int, fuel_per_test: int
) -> tuple[list[Problem], dict[str, int]]:
    """Return the wordings of the drafts whose solution passes twice and whose tests no stub passes, and the counts."""
    first = produce_values(sandbox, drafts, fuel_per_test)
    second = run_alone(sandbox, drafts, fuel_per_test)
    counts = {"programs_drafted": len(drafts), "programs_failed": 0, "programs_unstable": 0, "programs_trivial": 0}
    problems: list[Problem] = []
    for draft, one, two in zip(drafts, first, second, strict=True):
        if not len(one) == len(two) == len(draft.inputs):
            counts["programs_failed"] += 1
            continue
        if not all(map(same_value, two, one)):
            counts["programs_unstable"] += 1
            continue
        table = list(zip(draft.inputs, one, strict=True))
        if not (fails_on_stubs(table) and fails_on_stubs(table[public:])):
            counts["programs_trivial"] += 1
            continue
        problems.extend(to_problems(draft, table, public, fuel_per_test))
    return problems, counts
