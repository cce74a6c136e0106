"""The chat format of every stage (model card: ChatML with think), and the loss mask that follows from it.

    <|im_start|>user\n{content}<|im_end|>\n
    <|im_start|>assistant\n<think>\n{reasoning}\n</think>\n\n{answer}<|im_end|>\n

`render` is the Python twin of the tokenizer's `chat_template.jinja`. Rendering a prefix of the messages
gives a prefix of the text, so the mask is derived from rendered prefixes and not from markers inside a
template (Megatron-Bridge #3359: a template without markers silently trains on everything).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
THINK_START = "<think>"
THINK_END = "</think>"
ROLES = ("system", "user", "assistant", "tool")
CONTROL_TOKENS = (TURN_START, TURN_END, "<|endoftext|>")

Message = Mapping[str, Any]
"""One turn: `role`, `content`, and on assistant turns optionally `reasoning`."""


class EncodesText(Protocol):
    """What this module needs of a tokenizer; `transformers.PreTrainedTokenizerFast` satisfies it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids of `text`."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> Any:
        """Return the text of `token_ids`."""
        ...


class EncodedSample(NamedTuple):
    """Token ids and their loss mask: `mask[t]` is 1 where token t itself is to be learned."""

    ids: list[int]
    mask: list[int]


class Response(NamedTuple):
    """An assistant turn taken apart."""

    reasoning: str
    answer: str


def render_response(reasoning: str | None, answer: str) -> str:
    """Return the text of an assistant turn without its end token; None means no think block at all."""
    if reasoning is None or answer.startswith(THINK_START):
        return answer
    return f"{THINK_START}\n{reasoning}\n{THINK_END}\n\n{answer}"


def render_message(message: Message) -> str:
    """Return one complete ChatML turn.

    Raises ValueError for an unknown role.
    """
    role = message["role"]
    if role not in ROLES:
        raise ValueError(f"chat role {role!r} is not one of {', '.join(ROLES)}: fix the sample's messages column.")
    content = message.get("content") or ""
    if role == "assistant":
        content = render_response(message.get("reasoning"), content)
    return f"{TURN_START}{role}\n{content}{TURN_END}\n"


def render(messages: Sequence[Message]) -> str:
    """Return the whole conversation as text, equal to the tokenizer's own chat template."""
    return "".join(render_message(message) for message in messages)


def render_prompt(messages: Sequence[Message]) -> str:
    """Return the conversation up to and including the header of the assistant's next turn."""
    return f"{render(messages)}{TURN_START}assistant\n"


def parse_messages(column: str) -> list[dict[str, Any]]:
    """Return the messages stored as JSON in an SFT row."""
    return json.loads(column)


def split_response(text: str) -> Response:
    """Take a generated assistant turn apart into reasoning and answer.

    Everything from the end token on is ignored. An unclosed think block leaves the answer empty: the response
    never reached one. Text outside the exact format is kept rather than repaired.
    """
    body = text.split(TURN_END, 1)[0]
    head, closed, answer = body.partition(THINK_END)
    _, opened, reasoning = head.partition(THINK_START)
    if not closed:
        return Response(reasoning.strip(), "") if opened else Response("", body.strip())
    return Response((reasoning if opened else head).strip(), answer.strip())


def is_well_formed(text: str) -> bool:
    """Tell whether a generated turn is one closed think block, possibly empty, followed by an answer."""
    body = text.split(TURN_END, 1)[0]
    single = body.count(THINK_START) == 1 and body.count(THINK_END) == 1
    return single and body.startswith(THINK_START) and bool(split_response(body).answer)


def encode_prompt(tokenizer: EncodesText, messages: Sequence[Message]) -> list[int]:
    """Return the ids a model is given to write the next assistant turn."""
    _refuse_control_tokens(messages)
    return tokenizer.encode(render_prompt(messages), add_special_tokens=False)


def encode_sample(tokenizer: EncodesText, messages: Sequence[Message]) -> EncodedSample:
    """Return the ids of a conversation and the mask of what the model is to say.

    Assistant reasoning, answer and `<|im_end|>` are supervised; headers, prompts, tool output and the newline
    after the end token are not. The mask is found by encoding rendered prefixes, each of which must be a
    prefix of the whole.

    Raises ValueError when nothing is supervised, a token straddles a prompt boundary, an assistant turn's end
    token is unsupervised, or a message carries a control token.
    """
    _refuse_control_tokens(messages)
    ids = tokenizer.encode(render(messages), add_special_tokens=False)
    mask = [0] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render_prompt(messages[:index])
        turn = render(messages[: index + 1]).removesuffix("\n")
        start = _prefix_length(tokenizer, prompt, ids)
        stop = _prefix_length(tokenizer, turn, ids)
        mask[start:stop] = [1] * (stop - start)
    sample = EncodedSample(ids, mask)
    require_supervised_end(tokenizer, sample, turns=sum(m["role"] == "assistant" for m in messages))
    return sample


def require_supervised_end(tokenizer: EncodesText, sample: EncodedSample, *, turns: int) -> None:
    """Refuse a sample whose mask leaves out an end token: a model trained on it never stops (trl #5988).

    Raises ValueError naming the two counts.
    """
    end = tokenizer.encode(TURN_END, add_special_tokens=False)
    if len(end) != 1:
        raise ValueError(
            f"{TURN_END} encodes to {len(end)} tokens, expected one: the stop token could not be learned "
            "as a unit. Rebuild the tokenizer with it in its special tokens."
        )
    supervised = sum(token == end[0] and flag == 1 for token, flag in zip(*sample, strict=True))
    if turns == 0 or supervised != turns:
        raise ValueError(
            f"{supervised} supervised {TURN_END} tokens in a sample with {turns} assistant turns, "
            "expected one per turn and at least one: a model trained on it would never stop. "
            "Check the sample's messages."
        )


def supervised_turns(messages: Sequence[Message]) -> list[str]:
    """Return what a model is to say in a conversation: each assistant turn without its header, with its end token."""
    header = f"{TURN_START}assistant\n"
    return [
        render_message(message).removeprefix(header).removesuffix("\n")
        for message in messages
        if message["role"] == "assistant"
    ]


def supervised_text(tokenizer: EncodesText, sample: EncodedSample) -> str:
    """Return the decoded text the loss sees, for a person to read in the report."""
    ids = [token for token, flag in zip(*sample, strict=True) if flag]
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def _prefix_length(tokenizer: EncodesText, prefix: str, ids: list[int]) -> int:
    prefix_ids = tokenizer.encode(prefix, add_special_tokens=False)
    if ids[: len(prefix_ids)] != prefix_ids:
        raise ValueError(
            f"the encoded prefix ending in {prefix[-40:]!r} is not a prefix of the encoded conversation: a "
            "token straddles the boundary, so no exact loss mask exists. Use a tokenizer that splits at "
            "newlines and at special tokens."
        )
    return len(prefix_ids)


def _refuse_control_tokens(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        text = f"{message.get('content') or ''}{message.get('reasoning') or ''}"
        found = [token for token in CONTROL_TOKENS if token in text]
        if found:
            raise ValueError(
                f"message {index} ({message['role']}) holds the control token {found[0]}, expected plain "
                "text: it would be encoded as the end of a turn. Remove or escape it in the data stage."
            )
