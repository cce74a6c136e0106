import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nanbeige_core.data.encoding.bulk import BulkEncoder
from nanbeige_core.data.encoding.byte_fallback import ByteFallbackEngine
from nanbeige_core.data.encoding.merging import LONGEST_PIECE
from nanbeige_core.data.tokenizer import train_tokenizer

TEXTS = [Path(json.__file__).read_text(), "答案是四十二，因为床前明月光。" * 30, "The answer is \\boxed{42}.\n" * 30]
AWKWARD = "ab Z_09\\{}()<>|/.,\t\n\r\v\f\x85\u3000\u2028 \u00a0é\u0301½二〇々⺀月的改🎉\u0000\u200d\U000e0100ΩΣ"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 700)


@pytest.fixture(scope="module")
def compiled(tokenizer: Tokenizer) -> BulkEncoder:
    return BulkEncoder(tokenizer)


@pytest.fixture(scope="module")
def library(tokenizer: Tokenizer) -> BulkEncoder:
    return BulkEncoder(tokenizer, fast=False)


def same(compiled: BulkEncoder, library: BulkEncoder, texts: list[str], controls: bool) -> bool:
    ours, theirs = compiled.encode(texts, controls=controls), library.encode(texts, controls=controls)
    assert compiled.engine is not None, "the gate saw a difference"
    assert ours.lengths.tolist() == theirs.lengths.tolist()
    return ours.tokens.dtype == theirs.tokens.dtype and np.array_equal(ours.tokens, theirs.tokens)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(alphabet=AWKWARD, max_size=30), max_size=3), controls=st.booleans())
def test_every_split_is_the_librarys(
    compiled: BulkEncoder, library: BulkEncoder, texts: list[str], controls: bool
) -> None:
    assert same(compiled, library, texts, controls)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_gets_the_librarys_ids(compiled: BulkEncoder, library: BulkEncoder, text: str) -> None:
    assert same(compiled, library, [text], False)


@pytest.mark.parametrize("controls", [False, True])
def test_control_tokens_are_matched_where_the_library_matches_them(
    compiled: BulkEncoder, library: BulkEncoder, controls: bool
) -> None:
    texts = ["<think>a b</think>  <|im_start|>user\n<s><|im_end|> <unk>", "ends in <thi", "nk> begins", "", "<<s>>"]
    assert same(compiled, library, [*texts, *TEXTS], controls)


def test_a_piece_too_long_to_merge_is_left_to_the_library(compiled: BulkEncoder, library: BulkEncoder) -> None:
    assert same(compiled, library, ["short", "é" * (LONGEST_PIECE + 9) + " tail", "short again"], False)


def test_one_wrong_id_switches_back_to_the_library(tokenizer: Tokenizer, library: BulkEncoder) -> None:
    encoder = BulkEncoder(tokenizer)
    assert isinstance(encoder.engine, ByteFallbackEngine)
    encoder.engine.characters[ord("a")] = 5
    assert encoder.encode(TEXTS).tokens.tolist() == library.encode(TEXTS).tokens.tolist()
    assert (encoder.mismatches, encoder.engine) == (1, None)


def test_a_tokenizer_of_another_kind_goes_through_the_library(tokenizer: Tokenizer) -> None:
    description = json.loads(tokenizer.to_str())
    description["pre_tokenizer"]["pattern"]["Regex"] += "|x"
    assert BulkEncoder(Tokenizer.from_str(json.dumps(description))).engine is None
