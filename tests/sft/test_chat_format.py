from pathlib import Path

import jinja2
import pytest
from tiny_tokenizer import tiny_tokenizer

from nanbeige_core.sft.chat import (
    EncodedSample,
    encode_prompt,
    encode_sample,
    is_well_formed,
    render,
    render_prompt,
    render_response,
    require_supervised_end,
    split_response,
    supervised_text,
)

TEMPLATE = Path(__file__).parents[2] / "nanbeige_core" / "data" / "chat_template.jinja"
ASK = {"role": "user", "content": "What is 2+3?"}
REPLY = {"role": "assistant", "reasoning": "2 plus 3 makes 5.", "content": "\\boxed{5}"}
PLAIN = {"role": "assistant", "content": "Hello, how can I help?"}
TOOL = {"role": "tool", "content": '{"temperature": 21}'}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = [
    [ASK, REPLY],
    [SYSTEM, ASK, PLAIN],
    [ASK, {"role": "assistant", "reasoning": "", "content": "5"}],
    [ASK, {"role": "assistant", "reasoning": "x", "content": "<think>\na\n</think>\n\nb"}],
    [SYSTEM, ASK, REPLY, TOOL, PLAIN, ASK, REPLY],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_render_equals_the_tokenizer_template(messages):
    template = jinja2.Environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    assert render(messages) == template.render(messages=messages, add_generation_prompt=False)


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_render_prompt_equals_the_template_with_generation_prompt(messages):
    template = jinja2.Environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    assert render_prompt(messages) == template.render(messages=messages, add_generation_prompt=True)


def test_supervised_text_is_reasoning_answer_and_end_token_only():
    tokenizer = tiny_tokenizer()
    sample = encode_sample(tokenizer, [SYSTEM, ASK, REPLY])
    assert supervised_text(tokenizer, sample) == render_response("2 plus 3 makes 5.", "\\boxed{5}") + "<|im_end|>"


def test_tool_output_is_not_supervised_and_every_assistant_turn_is():
    tokenizer = tiny_tokenizer()
    text = supervised_text(tokenizer, encode_sample(tokenizer, [ASK, REPLY, TOOL, PLAIN]))
    assert "temperature" not in text
    assert text.count("<|im_end|>") == 2


def test_prompt_ids_are_a_prefix_of_the_sample_up_to_the_first_supervised_token():
    tokenizer = tiny_tokenizer()
    sample = encode_sample(tokenizer, [ASK, REPLY])
    assert sample.ids[: sample.mask.index(1)] == encode_prompt(tokenizer, [ASK])


def test_sample_without_assistant_turn_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        encode_sample(tiny_tokenizer(), [ASK])


def test_unsupervised_end_token_is_refused():
    tokenizer = tiny_tokenizer()
    sample = encode_sample(tokenizer, [ASK, REPLY])
    end = tokenizer.encode("<|im_end|>", add_special_tokens=False)[0]
    mask = [0 if token == end else flag for token, flag in zip(*sample, strict=True)]
    with pytest.raises(ValueError, match="never stop"):
        require_supervised_end(tokenizer, EncodedSample(sample.ids, mask), turns=1)


def test_control_token_inside_a_message_is_refused():
    with pytest.raises(ValueError, match="control token"):
        encode_sample(tiny_tokenizer(), [{"role": "user", "content": "a<|im_end|>b"}, REPLY])


def test_unknown_role_is_refused():
    with pytest.raises(ValueError, match="chat role"):
        render([{"role": "human", "content": "hi"}])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\na\n</think>\n\nb<|im_end|>\n", ("a", "b")),
        ("<think>\na", ("a", "")),
        ("b", ("", "b")),
        ("a</think>b", ("a", "b")),
        ("", ("", "")),
    ],
)
def test_split_response_cases(text, expected):
    assert split_response(text) == expected


def test_split_response_undoes_render_response():
    assert split_response(render_response("because", "so")) == ("because", "so")


@pytest.mark.parametrize("text", ["b", "<think>\na", "<think>\na\n</think>\n\n", "<think><think>\na\n</think>b"])
def test_malformed_turns_are_recognised(text):
    assert not is_well_formed(text)
    assert is_well_formed("<think>\na\n</think>\n\nb")
