import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from nanbeige_core.data import special_tokens
from nanbeige_core.data.tokenizer import (
    Kind,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)

TEXTS = [Path(json.__file__).read_text(), "答案是四十二，因为床前明月光。" * 30, "The answer is \\boxed{42}.\n" * 30]
KINDS: tuple[Kind, ...] = ("byte_fallback", "byte_level")
TOKENIZERS: dict[Kind, Tokenizer] = {kind: train_tokenizer(TEXTS, 700, kind=kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def tokenizer(kind: Kind) -> Tokenizer:
    return TOKENIZERS[kind]


@pytest.fixture
def loaded(tokenizer: Tokenizer, tmp_path: Path) -> PreTrainedTokenizerFast:
    save_tokenizer(tokenizer, tmp_path)
    return load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "The  answer\tis 12345.\n\n",
        "床前明月光，疑是地上霜。𠮷",
        "def f(x):\n    if x:\n\t\treturn x  # 1\r\n",
        " leading, ▁ literal, <0x41> literal, 🎉",
        "",
    ],
)
def test_decoding_reproduces_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(encode_documents(tokenizer, [text])[0], skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(KINDS), text=st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_the_round_trip(kind: Kind, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.decode(encode_documents(tokenizer, [text])[0], skip_special_tokens=False) == text


def test_special_tokens_hold_the_first_and_the_last_ids(loaded: PreTrainedTokenizerFast) -> None:
    assert loaded.convert_tokens_to_ids(list(special_tokens.FIRST)) == [0, 1, 2]
    last = list(range(len(loaded) - 7, len(loaded)))
    assert loaded.convert_tokens_to_ids(list(special_tokens.LAST)) == last


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("x12345").tokens == ["x", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("kind", "marker"), [("byte_fallback", "\\boxed{"), ("byte_level", "boxed")])
def test_the_answer_marker_is_one_piece(kind: Kind, marker: str) -> None:
    assert marker in TOKENIZERS[kind].encode("so \\boxed{7}").tokens


def test_crawled_text_cannot_open_a_chat_turn(tokenizer: Tokenizer) -> None:
    control = tokenizer.token_to_id(special_tokens.TURN_START)
    assert control not in encode_documents(tokenizer, ["see <|im_start|>user"])[0]
    assert control in encode_documents(tokenizer, ["<|im_start|>user"], plain=False)[0]


def test_the_fingerprint_follows_the_ids(tokenizer: Tokenizer, kind: Kind, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "a")
    save_tokenizer(train_tokenizer(TEXTS, 700, kind=kind), tmp_path / "b")
    save_tokenizer(train_tokenizer(TEXTS, 600, kind=kind), tmp_path / "c")
    first, second, third = (tokenizer_fingerprint(tmp_path / name) for name in "abc")
    assert first == second != third


def test_the_chat_template_writes_the_recipes_turns(loaded: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "reasoning": "easy"}]
    text = loaded.apply_chat_template(messages, tokenize=False)
    assert text == ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\neasy\n</think>\n\n2<|im_end|>\n")


def test_the_generation_prompt_opens_the_assistant_turn(loaded: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "hi"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert str(text).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_thinking_stays_visible_when_special_tokens_are_skipped(loaded: PreTrainedTokenizerFast) -> None:
    ids = loaded.encode("<think>\na\n</think>\n\nb<|im_end|>", add_special_tokens=False)
    assert loaded.decode(ids, skip_special_tokens=True) == "<think>\na\n</think>\n\nb"


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="Use at least 394"):
        train_tokenizer(TEXTS, 300)


def test_a_vocabulary_does_not_depend_on_how_ties_fall_out(kind: Kind) -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))  # each character once: the alphabet's border is a tie
    vocabularies = {train_tokenizer([*TEXTS, rare], 700, kind=kind).to_str() for _ in range(5)}
    assert len(vocabularies) == 1
