import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from nanbeige_core.data.encoding.bulk import GATE_FIRST, GATE_STRIDE, BulkEncoder
from nanbeige_core.data.encoding.byte_level import SEPARATOR
from nanbeige_core.data.encoding.engine import Encoded, Engine
from nanbeige_core.data.tokenizer import BYTE_LEVEL_PATTERN, train_tokenizer

TEXTS = [Path(json.__file__).read_text(), "答案是四十二，因为床前明月光。" * 30, "The answer is \\boxed{42}.\n" * 30]
AWKWARD = (
    "ab Z_09\\{}()<>|/.,'s\t\n\r\v\f\x85\u3000\u2028 \u00a0é\u0301½二〇々⺀月的改🎉\u0000\u200d\U000e0100ΩΣ" + SEPARATOR
)
LLAMA_3 = BYTE_LEVEL_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def imported(**changes: Any) -> Tokenizer:
    """A tokenizer as other people's models bring it: another split, or a normaliser."""
    other = Tokenizer.from_str(train_tokenizer(TEXTS, 700, kind="byte_level").to_str())
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def without_bytes(*symbols: str) -> Tokenizer:
    """A tokenizer whose training text lacked some bytes, as SmolLM2's did."""
    description = json.loads(imported().to_str())
    for symbol in symbols:
        del description["model"]["vocab"][symbol]
    return Tokenizer.from_str(json.dumps(description))


KINDS = {
    "own": imported(),
    "gpt-2": imported(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama-3": imported(
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), BYTES])
    ),
    "nfc": imported(normalizer=normalizers.NFC()),
    "lacking": without_bytes("Ā", "ċ"),
}


@pytest.fixture(scope="module", params=list(KINDS))
def encoders(request: pytest.FixtureRequest) -> tuple[BulkEncoder, BulkEncoder]:
    tokenizer = KINDS[request.param]
    return BulkEncoder(tokenizer), BulkEncoder(tokenizer, fast=False)


def same(encoders: tuple[BulkEncoder, BulkEncoder], texts: list[str], controls: bool) -> bool:
    fast, library = encoders
    ours, theirs = fast.encode(texts, controls=controls), library.encode(texts, controls=controls)
    assert fast.engine_name == "gigatoken", "the gate saw a difference, or there was no engine"
    assert ours.lengths.tolist() == theirs.lengths.tolist()
    return ours.tokens.dtype == theirs.tokens.dtype and np.array_equal(ours.tokens, theirs.tokens)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(alphabet=AWKWARD, max_size=30), max_size=3), controls=st.booleans())
def test_every_split_is_the_librarys(
    encoders: tuple[BulkEncoder, BulkEncoder], texts: list[str], controls: bool
) -> None:
    assert same(encoders, texts, controls)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_gets_the_librarys_ids(encoders: tuple[BulkEncoder, BulkEncoder], text: str) -> None:
    assert same(encoders, [text], False)


@pytest.mark.parametrize("controls", [False, True])
def test_control_tokens_are_matched_where_the_library_matches_them(
    encoders: tuple[BulkEncoder, BulkEncoder], controls: bool
) -> None:
    texts = ["<think>a b</think>  <|im_start|>user\n<s><|im_end|> <unk>", "ends in <thi", "nk> begins", "", "<<s>>"]
    assert same(encoders, [*texts, "<|endoftext|>", *TEXTS], controls)


def test_empty_and_huge_documents_get_the_librarys_ids(encoders: tuple[BulkEncoder, BulkEncoder]) -> None:
    assert same(encoders, ["", "", TEXTS[0] * 30, "é" * 20_000, ""], False)


def test_a_document_with_the_separator_keeps_its_place(encoders: tuple[BulkEncoder, BulkEncoder]) -> None:
    texts = ["first", f"a{SEPARATOR}b", "", f"{SEPARATOR}", "last"]
    encoder, library = encoders
    assert same(encoders, texts, False)
    assert encoder.encode(texts).lengths.tolist() == [len(library.encode([text]).tokens) for text in texts]


def test_half_a_surrogate_pair_is_refused_by_name(encoders: tuple[BulkEncoder, BulkEncoder]) -> None:
    for encoder in encoders:
        with pytest.raises(ValueError, match="document 1 of 2 .* at character 2"):
            encoder.encode(["fine", "ab\ud800"])


class WrongFrom(Engine):
    """An engine whose ids are off by one from a document of its life on."""

    name = "wrong"

    def __init__(self, encoder: BulkEncoder, document: int) -> None:
        assert encoder.engine is not None
        self.engine, self.document, self.seen = encoder.engine, document, 0

    def encode(self, texts: Any, *, controls: bool) -> Encoded:
        tokens, lengths = self.engine.encode(texts, controls=controls)
        self.seen += len(texts)
        return Encoded(tokens + (self.seen > self.document), lengths)


@pytest.mark.parametrize("document", [0, GATE_FIRST])
def test_one_wrong_id_switches_back_to_the_library(document: int) -> None:
    encoder, library = BulkEncoder(KINDS["own"]), BulkEncoder(KINDS["own"], fast=False)
    encoder.engine = WrongFrom(encoder, document)
    texts = [f"text {number}" for number in range(GATE_STRIDE + 1)]
    batches = [encoder.encode(texts[:GATE_FIRST]), encoder.encode(texts[GATE_FIRST:])]
    assert np.concatenate([b.tokens for b in batches]).tolist() == library.encode(texts).tokens.tolist()
    assert (encoder.mismatches, encoder.engine_name) == (1, "tokenizers")


@pytest.mark.parametrize(
    "other",
    [
        imported(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel()])),
        imported(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("x+"), "isolated"), BYTES])),
        imported(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_3), "removed"), BYTES])),
        imported(normalizer=normalizers.Lowercase()),
        imported(pre_tokenizer=None),
    ],
)
def test_what_the_engine_would_misread_goes_through_the_library(other: Tokenizer) -> None:
    assert BulkEncoder(other).engine_name == "tokenizers"


@pytest.mark.parametrize("option", ["lstrip", "rstrip", "single_word", "normalized"])
def test_added_tokens_with_a_reach_go_through_the_library(option: str) -> None:
    other = imported()
    other.add_tokens([AddedToken("<reach>", **{"normalized": False} | {option: True})])
    assert BulkEncoder(other).engine_name == "tokenizers"
