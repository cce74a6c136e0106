"""Adopt a Hugging Face tokenizer, and compare an adopted model's tokenizer with the recipe's."""

import json
from pathlib import Path

from nanbeige_core.adopt.register import copy_files
from nanbeige_core.adopt.source import AdoptError, Source, Wanted
from nanbeige_core.contract import Outcome
from nanbeige_core.data import special_tokens as names

FORMAT = "a Hugging Face tokenizer"
_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def recognise(path: Path, wanted: Wanted) -> Source:
    """Return a folder's tokenizer as a source; raises AdoptError when it lacks what the chat format writes."""
    files = tokenizer_files(path, wanted.stage)
    fingerprint, size = read_vocabulary(path)
    if "tokenizer_config.json" not in files:
        raise AdoptError(
            f"{path} holds no tokenizer_config.json beside tokenizer.json: transformers needs it to load the "
            "tokenizer. Save it with `tokenizer.save_pretrained(folder)`."
        )
    known = _vocabulary(path)
    missing = [name for name in (names.TURN_START, names.TURN_END, names.END_OF_TEXT) if name not in known]
    if missing:
        raise AdoptError(
            f"the tokenizer of {path} has no {', '.join(missing)}: every chat turn and every document ends with "
            "these. Add them as special tokens and save the tokenizer again."
        )

    def write(work: Path) -> Outcome:
        copy_files(files, work)
        return Outcome(summary=f"Adopted a tokenizer of {size:,} ids.", counts={"vocabulary": size})

    return Source(FORMAT, files, write, {"tokenizer": fingerprint})


def tokenizer_files(path: Path, stage: str) -> dict[str, Path]:
    """Return the tokenizer files of a folder; raises AdoptError when there is no tokenizer.json."""
    files = {name: path / name for name in _FILES if (path / name).is_file()}
    if "tokenizer.json" not in files:
        raise AdoptError(
            f"{path} holds no tokenizer.json, without which nobody knows what its ids mean and {stage} cannot be "
            "followed by any stage. Save the model's fast tokenizer into the folder (`tokenizer.save_pretrained`)."
        )
    return files


def read_vocabulary(path: Path) -> tuple[str, int]:
    """Return fingerprint and size of a folder's tokenizer; raises AdoptError for one that cannot be read."""
    from nanbeige_core.data.tokenizer import tokenizer_fingerprint

    return tokenizer_fingerprint(path), len(_vocabulary(path))


def _vocabulary(path: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    try:
        json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        return Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise AdoptError(f"{path}/tokenizer.json is no tokenizer ({error}); save it again.") from error


def require_same_vocabulary(path: Path, found: tuple[str, int], wanted: Wanted) -> None:
    """Refuse a model whose ids mean other text than the recipe's tokenizer says; raises AdoptError."""
    if wanted.tokenizer is None:
        raise AdoptError(
            f"the recipe's tokenizer is not in the store, so the one of {path} cannot be compared with it. Make it "
            "with `nanbeige run --until tokenizer`, or adopt the model's own: `nanbeige adopt tokenizer PATH`, then "
            "give this command `--set tokenizer.adopted=FINGERPRINT`."
        )
    ours = read_vocabulary(wanted.tokenizer)
    if found[0] != ours[0]:
        raise AdoptError(
            f"{path} has tokenizer {found[0]} ({found[1]:,} ids), the recipe has {ours[0]} ({ours[1]:,} ids, "
            f"{wanted.tokenizer}): the same id would mean other text. Adopt the model's tokenizer first (`nanbeige "
            "adopt tokenizer PATH`) and give this command `--set tokenizer.adopted=FINGERPRINT`."
        )
