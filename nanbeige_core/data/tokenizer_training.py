"""The tokenizer stage: choose training text, learn the pieces, prove the round trip, report the compression."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from nanbeige_core.contract import Gain, InputArtifact, Job, Outcome, Section
from nanbeige_core.data import special_tokens
from nanbeige_core.data.rendering import PROBLEM_COLUMNS
from nanbeige_core.data.tables import read_rows, take_rows
from nanbeige_core.data.tokenizer import (
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    train_tokenizer,
)
from nanbeige_core.recipe.configs.data import TokenizerConfig

SHOWN_STRINGS = (
    "\\boxed{",
    "<think>\n",
    "</think>\n\n",
    "<|im_start|>assistant\n",
    "<|im_end|>\n",
    "```python\n",
    "    return ",
    "2025",
    "因此",
    "答案",
)
MEASURED_DOCUMENTS = 400
COLUMNS = ("id", "text", "category", "language")

Row = dict[str, Any]


class _Size(NamedTuple):
    """What decides whether a document is learned from; `order` is the hash of its id."""

    order: bytes
    number: int
    language: str
    characters: int


class RoundTripError(ValueError):
    """A trained tokenizer does not reproduce a text."""


def run(job: Job) -> Outcome:
    """Train the tokenizer on the curated corpus and the problems, and write it as a Hugging Face folder."""
    config: TokenizerConfig = job.config
    held_out, corpus = draw_corpus(job.inputs["corpus"].path / "documents", config)
    training = [
        *corpus,
        *draw_problems(job.inputs.get("problems"), config),
    ]
    job.progress(0.2, f"learning pieces from {sum(map(len, training)):,} characters")
    tokenizer = train_tokenizer(
        training,
        config.vocab_size,
        kind=config.kind,
        alphabet_share=config.alphabet_share,
        min_frequency=config.min_frequency,
    )
    size = tokenizer.get_vocab_size()
    if size != config.vocab_size:
        raise ValueError(
            f"the training text yields {size} pieces, vocab_size asks for {config.vocab_size}: too little text for "
            f"the vocabulary ({sum(map(len, training)):,} characters). Lower vocab_size or min_frequency, or "
            "give the corpus more text."
        )
    verify_round_trip(tokenizer, [row["text"] for row in held_out])
    save_tokenizer(tokenizer, job.work)
    fingerprint = tokenizer_fingerprint(job.work)
    if len(load_tokenizer(job.work)) != size:
        raise RoundTripError(f"{job.work}: the saved tokenizer reloads with another size than {size}.")
    return _report(tokenizer, held_out, training, fingerprint)


def draw_corpus(documents: Path, config: TokenizerConfig) -> tuple[list[Row], list[str]]:
    """Return the documents that measure compression, and the texts to learn from; no others are held in memory."""
    rows = enumerate(read_rows(documents, ("id", "language", "text")))
    order = sorted(
        _Size(_order(row["id"], config.seed), number, row["language"], len(row["text"])) for number, row in rows
    )
    # the first documents measure compression and are not learned from
    measured = min(MEASURED_DOCUMENTS, max(1, len(order) // 5))
    held_out = take_rows(documents, [size.number for size in order[:measured]], COLUMNS)
    drawn = list(_draw_within(order[measured:], config))
    distinct = sorted(set(drawn))
    texts = take_rows(documents, distinct, ("text",))
    by_number = {number: row["text"] for number, row in zip(distinct, texts, strict=True)}
    return held_out, [by_number[number] for number in drawn]


def draw_problems(problems: InputArtifact | None, config: TokenizerConfig) -> Iterator[str]:
    """Yield training problems as plain text, so that frequent reasoning strings become single pieces."""
    if problems is None:
        return
    budget = config.training_characters * config.problem_share
    rows = list(read_rows(problems.path / "prompts.parquet", PROBLEM_COLUMNS))
    for row in sorted(rows, key=lambda row: _order(row["id"], config.seed)):
        if row["split"] in ("pretrain", "sft") and budget > 0:
            text = f"user\n{row['prompt']}\nassistant\n{row['reasoning']}\n\n{row['answer']}"
            yield text
            budget -= len(text)


def verify_round_trip(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Raise RoundTripError naming the first place where decoding an encoded text differs from it."""
    for text, ids in zip(texts, encode_documents(tokenizer, texts), strict=True):
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if back != text:
            place = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), len(back))
            raise RoundTripError(
                f"decode(encode(text)) differs at character {place}: {text[place : place + 20]!r} became "
                f"{back[place : place + 20]!r}. The tokenizer must be lossless; check its pre-tokenizer and decoder."
            )


def _draw_within(sizes: list[_Size], config: TokenizerConfig) -> Iterator[int]:
    """Yield numbers of documents up to the budget; a Chinese one counts and comes `chinese_weight` times."""
    budget = config.training_characters * (1 - config.problem_share)
    debt = 0.0
    for size in sizes:
        debt += config.chinese_weight if size.language == "zh" else 1.0
        while debt >= 1.0:
            if budget <= 0:
                return
            yield size.number
            budget -= size.characters
            debt -= 1.0


def _order(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _report(tokenizer: Tokenizer, held_out: list[Row], training: list[str], fingerprint: str) -> Outcome:
    lengths = [len(ids) for ids in encode_documents(tokenizer, [row["text"] for row in held_out])]
    groups: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for row, tokens in zip(held_out, lengths, strict=True):
        measured = (len(row["text"]), len(row["text"].encode()), tokens)
        groups.setdefault((row["language"], row["category"]), []).append(measured)
    table = [
        {
            "language": language,
            "category": category,
            "documents": len(group),
            "characters_per_token": round(sum(g[0] for g in group) / sum(g[2] for g in group), 2),
            "bytes_per_token": round(sum(g[1] for g in group) / sum(g[2] for g in group), 2),
        }
        for (language, category), group in sorted(groups.items())
    ]
    size = sum(len(row["text"].encode()) for row in held_out)
    ratio = size / max(1, sum(lengths))
    strings = [{"string": s, "tokens": len(encode_documents(tokenizer, [s], plain=False)[0])} for s in SHOWN_STRINGS]
    characters = sum(map(len, training))
    return Outcome(
        summary=f"Learned {tokenizer.get_vocab_size():,} ids from {characters:,} characters; {ratio:.2f} bytes per "
        f"token on {len(held_out)} unseen documents, all reproduced exactly. Fingerprint {fingerprint}.",
        counts={
            "vocabulary": tokenizer.get_vocab_size(),
            "special_tokens": len(special_tokens.FIRST) + len(special_tokens.LAST),
            "training_texts": len(training),
            "round_trips": len(held_out),
        },
        metrics={"bytes_per_token": ratio, "training_characters": float(characters)},
        gain=Gain(metric="UTF-8 bytes per token on unseen documents", before=1.0, after=ratio, n=len(held_out)),
        sections=[
            Section(title="Compression on unseen documents", table=table),
            Section(title="Cost of frequent strings", table=strings),
        ],
    )
