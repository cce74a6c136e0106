"""Adopt a corpus: JSONL or Parquet becomes documents exactly as the ingest stage would have read them."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nanbeige_core.adopt.source import AdoptError, Source
from nanbeige_core.contract import Outcome
from nanbeige_core.data.ingest import ingest_path
from nanbeige_core.data.sources.path import SourceError, expand_paths, read_path
from nanbeige_core.recipe.configs.data import Category, IngestConfig, Language, PathSource

FORMAT = "a corpus"


class CorpusFields(BaseModel):
    """What a corpus cannot say of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: Category = "web"
    name: str = "adopted"
    text_field: str = "text"
    language: Language | None = None
    licence: str = "unknown"


def recognise(path: Path, fields: CorpusFields) -> Source:
    """Return a corpus as a source; its first row is read, so that a wrong column is known before any work.

    Raises AdoptError when nothing can be read.
    """
    try:
        found = expand_paths(str(path))
        next(iter(read_path(found[0], fields.text_field)), None)
    except SourceError as error:
        raise AdoptError(str(error)) from error
    root = path if path.is_dir() else path.parent
    files = {file.relative_to(root).as_posix(): file for file in found}
    source = PathSource(path=str(path), **fields.model_dump())

    def write(work: Path) -> Outcome:
        try:
            return ingest_path(work, IngestConfig.model_validate({"sources": (source,)}), source, root=root)
        except SourceError as error:
            raise AdoptError(str(error)) from error

    return Source(FORMAT, files, write, fields.model_dump())
