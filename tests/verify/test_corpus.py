"""Verdicts do not depend on how many programs run at once; the whole size is `benchmarks/sandbox.py`."""

from pathlib import Path

import pytest

from nanbeige_core.verify.code_verifier import CodeVerifier, extract_program, programs_of, read_tests
from nanbeige_core.verify.component import SandboxUnavailable
from nanbeige_core.verify.corpus import ENDINGS, HonestProgram, draw_corpus, misjudged
from nanbeige_core.verify.sandbox import Program, Sandbox, open_namespaces, open_wasm
from nanbeige_core.verify.verdict import Verdict

STDLIB = draw_corpus(40, seed=1, needs="stdlib")
SYSTEM = draw_corpus(len(ENDINGS), seed=1, needs="system")


def runs(corpus: list[HonestProgram]) -> list[Program]:
    found: list[Program] = []
    for item in corpus:
        source = extract_program(item.request.response_text)
        assert source is not None
        found += programs_of(source, read_tests(item.request))
    return found


def test_a_corpus_holds_every_kind_and_both_styles_and_follows_from_its_seed() -> None:
    assert {item.kind for item in STDLIB} == set(ENDINGS)
    assert {item.request.spec.get("style") for item in STDLIB} == {"stdin", None}
    assert draw_corpus(40, seed=1, needs="stdlib") == STDLIB
    assert draw_corpus(40, seed=2, needs="stdlib") != STDLIB


def test_a_verdict_that_is_not_deserved_is_named() -> None:
    (line, *_) = misjudged(STDLIB[:1], [Verdict("wrong", "some tests", "wasm")])
    assert "right 0: judged wrong" in line


def test_verdicts_and_instructions_are_those_of_one_program_at_a_time(guest_cache: Path, sandbox: Sandbox) -> None:
    alone = CodeVerifier(sandbox).verify([item.request for item in STDLIB])
    fuel = [result.fuel for result in sandbox.run(runs(STDLIB))]
    with open_wasm(workers=4, cache=guest_cache) as runner:
        together = CodeVerifier(Sandbox({"stdlib": lambda: runner})).verify([item.request for item in STDLIB])
        assert [result.fuel for result in runner.run(runs(STDLIB))] == fuel
    assert misjudged(STDLIB, alone) == misjudged(STDLIB, together) == []


def test_namespaces_judge_the_corpus_as_it_deserves_with_more_programs_than_cores() -> None:
    try:
        with open_namespaces(workers=4) as runner:
            verdicts = CodeVerifier(Sandbox({"system": lambda: runner})).verify([item.request for item in SYSTEM])
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    assert misjudged(SYSTEM, verdicts) == []
