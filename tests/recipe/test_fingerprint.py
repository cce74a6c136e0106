import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from nanbeige_core.recipe.configs.base import IdentityConfig
from nanbeige_core.recipe.fingerprint import added_field, canonical, fingerprint, identity_values

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


class Old(IdentityConfig):
    beta: float = Field(0.1)


class New(IdentityConfig):
    beta: float = Field(0.1)
    label_smoothing: float = added_field(0.0)


@given(st.dictionaries(st.text(), plain))
def test_key_order_does_not_change_the_fingerprint(value: dict[str, object]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(list(value.items()))))


@given(plain, plain)
def test_different_values_have_different_encodings(one: object, other: object) -> None:
    if canonical(one) == canonical(other):
        assert one == other


def test_integral_floats_and_integers_are_one_value() -> None:
    assert fingerprint({"x": 1}) == fingerprint({"x": 1.0})


def test_an_added_field_at_its_default_keeps_old_fingerprints() -> None:
    assert identity_values(New()) == identity_values(Old())


def test_an_added_field_off_its_default_changes_the_fingerprint() -> None:
    assert fingerprint(identity_values(New(label_smoothing=0.1))) != fingerprint(identity_values(Old()))


def test_a_changed_default_changes_the_fingerprint_of_an_ordinary_field() -> None:
    assert fingerprint(identity_values(Old(beta=0.2))) != fingerprint(identity_values(Old()))


@pytest.mark.parametrize("value", [object(), {1: 2}, {"s": {1, 2}}, b"bytes", lambda: None])
def test_unstable_values_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        fingerprint({"x": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        fingerprint({"x": value})


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from nanbeige_core.recipe.fingerprint import fingerprint;"
        "print(fingerprint({'b': [1, 2.5, 'z'], 'a': {'k': None}}))"
    )
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == fingerprint({"a": {"k": None}, "b": [1, 2.5, "z"]})
