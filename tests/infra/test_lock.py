"""The lock is installed without resolution, so whatever its packages ask for on any Python it is for must be in it."""

import importlib.metadata
import re

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.conftest import ROOT

LEFT_OUT = {
    "awkward",  # gigatoken returns such arrays where it is asked to; nothing here asks
    "setuptools",  # installed by the set-up itself
}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", ["3.11.0", "3.11.9", "3.12.0"])
def test_the_lock_is_complete_on_every_python_it_is_for(python: str) -> None:
    lines = (ROOT / "requirements/cpu.txt").read_text().splitlines()
    pins = {plain(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line}
    machine = {name: str(value) for name, value in default_environment().items()}
    there = {**machine, "python_version": python[:4], "python_full_version": python, "extra": ""}
    wanted = [Requirement(text) for name in pins for text in importlib.metadata.requires(name) or []]
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate(there)]
    assert {plain(one.name) for one in needed} - set(pins) == LEFT_OUT
    wrong = [str(one) for one in needed if plain(one.name) in pins and pins[plain(one.name)] not in one.specifier]
    assert not wrong
