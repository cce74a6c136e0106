import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from nanbeige_core.data import special_tokens
from nanbeige_core.data.tokenizer import (
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)

TEXTS = [Path(json.__file__).read_text(), "答案是四十二，因为床前明月光。" * 30, "The answer is \\boxed{42}.\n" * 30]
TOKENIZER: Tokenizer = train_tokenizer(TEXTS, 700)


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
def test_decoding_reproduces_the_text(text: str) -> None:
    assert TOKENIZER.decode(encode_documents(TOKENIZER, [text])[0], skip_special_tokens=False) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(encode_documents(TOKENIZER, [text])[0], skip_special_tokens=False) == text


def test_special_tokens_hold_the_first_and_the_last_ids(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.convert_tokens_to_ids(list(special_tokens.FIRST)) == [0, 1, 2]
    last = list(range(len(loaded) - 7, len(loaded)))
    assert loaded.convert_tokens_to_ids(list(special_tokens.LAST)) == last


def test_digits_stand_alone() -> None:
    assert TOKENIZER.encode("x12345").tokens == ["x", "1", "2", "3", "4", "5"]


def test_the_answer_marker_is_one_piece() -> None:
    assert "\\boxed{" in TOKENIZER.encode("so \\boxed{7}").tokens


def test_crawled_text_cannot_open_a_chat_turn() -> None:
    control = TOKENIZER.token_to_id(special_tokens.TURN_START)
    assert control not in encode_documents(TOKENIZER, ["see <|im_start|>user"])[0]
    assert control in encode_documents(TOKENIZER, ["<|im_start|>user"], plain=False)[0]


def test_the_fingerprint_follows_the_ids(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path / "a")
    save_tokenizer(train_tokenizer(TEXTS, 700), tmp_path / "b")
    save_tokenizer(train_tokenizer(TEXTS, 600), tmp_path / "c")
    first, second, third = (tokenizer_fingerprint(tmp_path / name) for name in "abc")
    assert first == second != third


def test_the_chat_template_writes_the_recipes_turns(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "reasoning": "easy"}]
    text = load_tokenizer(tmp_path).apply_chat_template(messages, tokenize=False)
    assert text == ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\neasy\n</think>\n\n2<|im_end|>\n")


def test_the_generation_prompt_opens_the_assistant_turn(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    loaded = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "hi"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert str(text).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_thinking_stays_visible_when_special_tokens_are_skipped(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    loaded = load_tokenizer(tmp_path)
    ids = loaded.encode("<think>\na\n</think>\n\nb<|im_end|>", add_special_tokens=False)
    assert loaded.decode(ids, skip_special_tokens=True) == "<think>\na\n</think>\n\nb"


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="Use at least 394"):
        train_tokenizer(TEXTS, 300)


def test_a_vocabulary_does_not_depend_on_how_ties_fall_out() -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))  # each character once: the alphabet's border is a tie
    vocabularies = {train_tokenizer([*TEXTS, rare], 700).to_str() for _ in range(5)}
    assert len(vocabularies) == 1
