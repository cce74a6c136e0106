"""Recognise what a path holds, for a stage that makes a given type of artifact."""

from collections.abc import Callable
from pathlib import Path

from nanbeige_core.adopt import documents, huggingface, layout, tokenizer
from nanbeige_core.adopt.documents import CorpusFields
from nanbeige_core.adopt.source import AdoptError, Source, Wanted
from nanbeige_core.artifacts.kinds import LAYOUTS, Kind

_OUTSIDE: dict[Kind, tuple[Callable[[Path, Wanted], Source], str]] = {
    Kind.CHECKPOINT: (huggingface.recognise, "a Hugging Face folder (config.json, *.safetensors, tokenizer.json)"),
    Kind.REWARD_MODEL: (huggingface.recognise_judge, "a Hugging Face folder of a causal language model"),
    Kind.TOKENIZER: (tokenizer.recognise, "a Hugging Face tokenizer (tokenizer.json)"),
}


def recognise(path: Path, kind: Kind, wanted: Wanted, fields: CorpusFields) -> Source:
    """Return what lies at `path` as a checked source of type `kind`.

    Any type can be adopted from a folder with that type's own files (an artifact of another store). Beside those,
    models and tokenizers come from Hugging Face folders, and a corpus from JSONL or Parquet. Raises AdoptError for
    everything else, saying what was expected.
    """
    if not path.exists():
        raise AdoptError(f"{path} does not exist; give the folder or file to adopt for stage {wanted.stage}.")
    if kind != Kind.TOKENIZER and path.is_dir() and layout.fits(path, kind):
        return layout.recognise(path, kind, wanted)
    if kind == Kind.CORPUS:
        return documents.recognise(path, fields)
    if kind in _OUTSIDE:
        return _OUTSIDE[kind][0](path, wanted)
    raise AdoptError(
        f"{path} is no {kind}: expected a folder with {', '.join(LAYOUTS[kind].required)} ({LAYOUTS[kind].holds}), "
        f"which is what stage {wanted.stage} makes. Copy it from another store, or run the stage."
    )


def describe_accepted(kind: Kind) -> str:
    """Return in words what can be adopted as a type of artifact."""
    own = f"a folder with {', '.join(LAYOUTS[kind].required)}"
    if kind == Kind.CORPUS:
        return f"{own}, or .jsonl, .jsonl.gz, .parquet files"
    return f"{own}, or {_OUTSIDE[kind][1]}" if kind in _OUTSIDE else own
