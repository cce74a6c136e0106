"""The tokenizer: SentencePiece-style BPE with byte fallback, or byte-level BPE; lossless for prose and code.

Byte fallback: spaces and newlines are ordinary characters of the pieces, digits stand alone, and a character without a
piece falls back to its UTF-8 bytes. Byte level: every piece is a run of bytes, so that nothing needs a fallback. Either
way `decode(encode(text)) == text` for every text.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from nanbeige_core.data import special_tokens as names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A TeX command with its brace is one word, so that `\boxed{` can become one piece; a newline run keeps its indent
# apart from the word that follows, so that code indents are shared pieces.
SPLIT_PATTERN = (
    r"\p{N}|\\[a-zA-Z]+\{?| ?\p{Han}+| ?[\p{L}\p{M}_]+| ?[^\s\p{L}\p{M}\p{N}_\\]+|\\|[ \t]*[\r\n]+|\s+(?!\S)|\s"
)

# What Qwen2 and Qwen3 split by. Digits stand alone here too; `\boxed{` is three pieces.
BYTE_LEVEL_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LONGEST_PIECE = 24
"""Characters; bytes in a byte-level tokenizer."""

Kind = Literal["byte_fallback", "byte_level"]

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def load_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """Load a Tokenizer artifact; raises FileNotFoundError naming the directory when it holds none."""
    from transformers import PreTrainedTokenizerFast  # 2 s of imports, only where a tokenizer is used

    if not (path / "tokenizer.json").exists():
        raise FileNotFoundError(f"{path} holds no tokenizer.json. Expected the directory of a Tokenizer artifact.")
    return PreTrainedTokenizerFast.from_pretrained(str(path))


def tokenizer_fingerprint(path: Path) -> str:
    """Return 16 hex digits that two tokenizers share exactly when every text gets the same ids from both."""
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    parts = {key: content.get(key) for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(canonical).hexdigest()[:16]


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: Kind = "byte_fallback",
    alphabet_share: float = 0.3,
    min_frequency: int = 2,
) -> Tokenizer:
    """Train a BPE tokenizer of at most `vocab_size` ids, special tokens and byte pieces included.

    `alphabet_share` of the ids go to the most frequent characters; rarer characters become bytes. A byte-level
    tokenizer has no characters: its alphabet is the 256 bytes, and the share says nothing. A small corpus can run out
    of pairs to merge: then the vocabulary is smaller than asked, and the caller decides what that means.
    """
    reserved = len(names.FIRST) + len(names.BYTES) + len(names.LAST)
    if vocab_size < reserved + 128:
        raise ValueError(
            f"vocab_size {vocab_size} leaves no room: {reserved} ids are special tokens and bytes, and a "
            f"character alphabet needs 128 more. Use at least {reserved + 128}."
        )
    train = _train_byte_level if kind == "byte_level" else _train_byte_fallback
    trained = train(texts, vocab_size - len(names.LAST), alphabet_share, min_frequency)
    return _assemble(json.loads(trained.to_str())["model"], kind)


def _train_byte_fallback(texts: Iterable[str], size: int, alphabet_share: float, min_frequency: int) -> Tokenizer:
    texts = list(texts)
    alphabet = _alphabet(texts, max(128, int((size + len(names.LAST)) * alphabet_share)))
    trained = Tokenizer(models.BPE(unk_token=names.UNKNOWN, byte_fallback=True))
    trained.pre_tokenizer = _pre_tokenizer("byte_fallback")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=[*names.FIRST, *names.BYTES],
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        max_token_length=LONGEST_PIECE,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return trained


def _train_byte_level(texts: Iterable[str], size: int, _alphabet_share: float, min_frequency: int) -> Tokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _pre_tokenizer("byte_level")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=list(names.FIRST),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_PIECE,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return trained


def _alphabet(texts: Iterable[str], size: int) -> list[str]:
    """Return the plain characters and then the most frequent others, `size` in all; code points break ties.

    Left to the trainer, a tie at the border would fall out another way each time: it breaks them by the order of a
    randomised hash table, and two runs of one recipe would have two vocabularies.
    """
    plain = ["\n", "\t", *map(chr, range(32, 127))]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    others = sorted(set(counts) - set(plain), key=lambda character: (-counts[character], character))
    return [*plain, *others[: max(size - len(plain), 0)]]


def save_tokenizer(tokenizer: Tokenizer, path: Path, *, max_length: int = 65536) -> None:
    """Write a tokenizer as files that `PreTrainedTokenizerFast.from_pretrained` loads, with the chat template."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": names.UNKNOWN,
        "bos_token": names.BEGIN,
        "eos_token": names.TURN_END,
        "pad_token": names.END_OF_TEXT,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE.read_text())


def encode_documents(tokenizer: Tokenizer, texts: list[str], *, plain: bool = True) -> list[list[int]]:
    """Encode texts to ids without adding any.

    With `plain`, a control token's name inside a document is text: crawled text must not open a chat turn.
    """
    tokenizer.encode_special_tokens = plain
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _pre_tokenizer(kind: Kind) -> pre_tokenizers.PreTokenizer:
    if kind == "byte_fallback":
        return pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    split = pre_tokenizers.Split(Regex(BYTE_LEVEL_PATTERN), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _assemble(model: dict[str, Any], kind: Kind) -> Tokenizer:
    """Build the final tokenizer: byte pieces as plain vocabulary (never matched in text), special tokens last."""
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(pair) for pair in model["merges"]]
    if kind == "byte_level":
        final = Tokenizer(models.BPE(vocabulary, merges))
        final.decoder = decoders.ByteLevel()
    else:
        final = Tokenizer(models.BPE(vocabulary, merges, unk_token=names.UNKNOWN, byte_fallback=True))
        final.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    final.pre_tokenizer = _pre_tokenizer(kind)
    final.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names.FIRST])
    for name in names.LAST:  # one by one: their id order is part of the contract
        hidden = name not in names.VISIBLE
        final.add_tokens([AddedToken(name, normalized=False, special=hidden)])
    return final
