"""Untrusted bytes: whatever comes, a parser answers or refuses in its own words, and soon."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.recipe.fingerprint import canonical, fingerprint
from nanbeige_core.redaction import redact
from tests.artifacts.making import draft
from tests.fuzz.parsers import PARSERS, dictionary, feed, seeds

WORDS = sorted(set(dictionary()))
MIXED = st.lists(st.one_of(st.binary(max_size=24), st.sampled_from(WORDS)), max_size=12).map(b"".join)
EXAMPLES = {"recipe": 40, "override": 40}


@pytest.mark.parametrize(("name", "data"), seeds(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_first_inputs_are_answered_or_refused(name: str, data: bytes) -> None:
    feed(name, data)


@pytest.mark.parametrize("name", PARSERS)
def test_random_bytes_are_answered_or_refused(name: str) -> None:
    @settings(max_examples=EXAMPLES.get(name, 120), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(MIXED)
    def law(data: bytes) -> None:
        feed(name, data)

    law()


@pytest.mark.parametrize("name", ["parquet", "arrow", "indexed dataset"])
def test_a_valid_file_with_any_byte_damaged_is_answered_or_refused(name: str) -> None:
    valid = PARSERS[name].seeds[-1]
    for place in range(len(valid)):
        for damage in (0x01, 0xFF):
            feed(name, valid[:place] + bytes([valid[place] ^ damage]) + valid[place + 1 :])


@pytest.mark.parametrize("name", [name for name in PARSERS if name not in ("recipe", "override")])
@pytest.mark.parametrize("piece", [b"[", b"{", b"\\boxed{", b"a_", b"<p", b"x://", b"(", b"^{"])
def test_long_repetitions_take_no_time(name: str, piece: bytes) -> None:
    start = time.process_time()
    feed(name, piece * (20_000 // len(piece)))
    assert time.process_time() - start < 2.0


DEEP = b'{"text": ' + b"[" * 200_000 + b"}"


@pytest.mark.parametrize("line", [DEEP, b'{"text": ' + b"1" * 5000 + b"}", b'{"text": "\\ud800"}'])
def test_a_row_that_is_no_text_is_dropped_with_a_reason(line: bytes, tmp_path: Path) -> None:
    from nanbeige_core.data.sources.path import read_path

    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b'\n{"text": "good"}\n')
    rows = list(read_path(path, "text"))
    assert [row.text for row in rows] == [None, "good"]
    assert rows[0].problem


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/../../b", "..", ""])
def test_a_manifest_cannot_lead_out_of_its_folder(name: str) -> None:
    entry = {"bytes": 1, "sha256": "0" * 64}
    plain = draft("ingest", "a" * 64, Kind.CORPUS).model_dump(mode="json")
    Manifest.model_validate({**plain, "files": {"documents/a": entry}})
    with pytest.raises(ValueError, match="no path below"):
        Manifest.model_validate({**plain, "files": {name: entry}})
    with pytest.raises(ValueError, match="no name of a folder"):
        Manifest.model_validate({**plain, "stage": name or "a/b"})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), PLAIN, max_size=5), st.randoms())
def test_a_fingerprint_knows_no_order_and_every_value(identity: dict[str, object], random: object) -> None:
    keys = list(identity)
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert fingerprint({key: identity[key] for key in keys}) == fingerprint(identity)
    assert fingerprint({**identity, "one more": 1}) != fingerprint(identity)
    assert canonical(identity) == canonical(dict(identity))


@settings(max_examples=200, deadline=None)
@given(
    st.text(),
    st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=8).filter(lambda t: not t.isdigit()),
)
def test_a_named_secret_never_survives(before: str, secret: str) -> None:
    hidden = redact(f"{before} AWS_SECRET_ACCESS_KEY={secret}x ")
    assert f"={secret}x" not in hidden
