"""Ingest: read the configured sources, cut long texts at paragraph borders, and write the pool with licences.

Every source has a budget; a seeded hash of each text's key decides what a budget keeps, so the choice does not
depend on file order. Each dropped text has a reason.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from nanbeige_core.contract import Job, Outcome, Section
from nanbeige_core.data.fetch import FetchError
from nanbeige_core.data.language import cjk_ratio, detect_language
from nanbeige_core.data.sources import REGISTRY, PackagedText
from nanbeige_core.data.sources.path import SourceError, expand_paths, read_path, refuse_half_written
from nanbeige_core.data.tables import write_shards
from nanbeige_core.recipe.configs.data import IngestConfig, PackagedSource, PathSource
from nanbeige_core.report.counting import count_rows

CORPUS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "source", "category", "language", "licence", "provenance")]
)
ROWS_PER_FILE = 4000


@dataclass
class SourceTally:
    """What happened to one source."""

    name: str
    licence: str
    category: str
    documents: int = 0
    characters: int = 0
    note: str = ""
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)
    """Where the first text of each reason stands."""
    languages: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, key: str) -> None:
        """Count a dropped text."""
        self.dropped[reason] += 1
        self.first_dropped.setdefault(reason, key)


def run(job: Job) -> Outcome:
    """Write `documents/*.parquet` from the configured sources."""
    config: IngestConfig = job.config
    for source in config.sources:
        if isinstance(source, PathSource):
            refuse_half_written(expand_paths(source.path))
    tallies: list[SourceTally] = []
    write_shards(job.work / "documents", CORPUS_SCHEMA, _all_rows(job, config, tallies), rows_per_file=ROWS_PER_FILE)
    documents = sum(tally.documents for tally in tallies)
    if documents == 0:
        raise SourceError(
            f"{job.stage}: no document survived from {len(tallies)} sources: {_notes(tallies)}. Name sources that "
            "this machine can read, or mend what is dropped."
        )
    return _report(tallies)


def ingest_path(work: Path, config: IngestConfig, source: PathSource, *, root: Path) -> Outcome:
    """Write `documents/*.parquet` from one table of a user; ids follow from paths below `root`, not from where it lies.

    Raises SourceError when no document survives.
    """
    tallies: list[SourceTally] = []
    rows = _path_rows(config, source, tallies, root=root)
    write_shards(work / "documents", CORPUS_SCHEMA, rows, rows_per_file=ROWS_PER_FILE)
    if not tallies or tallies[0].documents == 0:
        raise SourceError(f"{source.path}: no document survived: {_notes(tallies)}")
    return _report(tallies)


def cut_document(text: str, limit: int) -> list[str]:
    """Cut a text into pieces of at most `limit` characters at paragraph borders, else at lines, else anywhere."""
    if len(text) <= limit:
        return [text]
    pieces: list[str] = []
    current = ""
    for paragraph in _split_small(text, limit):
        if current and len(current) + len(paragraph) > limit:
            pieces.append(current.strip("\n"))
            current = ""
        current += paragraph
    pieces.append(current.strip("\n"))
    return [piece for piece in pieces if piece.strip()]


def drop_reason(text: str, config: IngestConfig) -> str:
    """Return why a text may not enter the pool, or an empty string."""
    if len(text) > config.gigantic_characters:
        return "gigantic"
    if len(text.strip()) < config.minimum_characters:
        # a Chinese sentence says in 20 characters what English says in 60
        if len(text.strip()) * 3 >= config.minimum_characters and cjk_ratio(text) > 0.5:
            return ""
        return "empty"
    if "\x00" in text:
        return "binary"
    if text.count("\ufffd") * 200 > len(text):
        return "broken_utf8"
    return ""


def _split_small(text: str, limit: int) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        if len(paragraph) + 2 <= limit:
            yield paragraph + "\n\n"
            continue
        for line in paragraph.split("\n"):
            for start in range(0, len(line) + 1, limit - 1):
                yield line[start : start + limit - 1] + ("\n" if start + limit - 1 > len(line) else "")
        yield "\n"


def _all_rows(job: Job, config: IngestConfig, tallies: list[SourceTally]) -> Iterator[dict[str, Any]]:
    for number, source in enumerate(config.sources):
        job.progress(number / len(config.sources), f"reading {source.name or 'path'}")
        rows = (
            _packaged_rows(job, config, source, tallies)
            if isinstance(source, PackagedSource)
            else _path_rows(config, source, tallies)
        )
        yield from rows


def _packaged_rows(
    job: Job, config: IngestConfig, source: PackagedSource, tallies: list[SourceTally]
) -> Iterator[dict[str, Any]]:
    entry = _look_up(source.name)
    tally = SourceTally(entry.name, entry.licence, entry.category)
    tallies.append(tally)
    try:
        members = entry.list_members(job.cache / "downloads")
    except FetchError as error:
        if config.when_unavailable == "error":
            raise
        members, tally.note = None, str(error)
    if members is None:
        tally.note = tally.note or f"this machine cannot get {entry.needs} package {entry.package}"
        if config.when_unavailable == "error":
            raise FetchError(f"source {entry.name}: {tally.note}. Remove it from `sources` or use skip.")
        return
    for member in sorted(members, key=lambda item: _order(config.seed, item.key)):
        if tally.documents >= source.documents or tally.characters >= source.characters:
            return
        try:
            texts = list(entry.parse(member.content))
        except (UnicodeDecodeError, OSError):
            tally.drop("broken_utf8", member.key)
            continue
        parts: Counter[str] = Counter()
        for text in texts:
            parts[text.part] += 1
            # two methods of one module may have one name, but no two documents may have one id
            part = text.part if parts[text.part] == 1 else f"{text.part}#{parts[text.part]}"
            provenance = {"package": entry.package, "member": member.key, "part": part, **text.extra}
            yield from _rows_of(text.text, provenance, tally, config, entry.language, source)


def _path_rows(
    config: IngestConfig, source: PathSource, tallies: list[SourceTally], *, root: Path | None = None
) -> Iterator[dict[str, Any]]:
    tally = SourceTally(source.name or Path(source.path).stem, source.licence, source.category)
    tallies.append(tally)
    language = "code" if source.category == "code" else source.language
    for file in expand_paths(source.path):
        for row in read_path(file, source.text_field):
            if row.text is None:
                tally.drop(row.problem, row.key)
                continue
            path = file.relative_to(root).as_posix() if root else str(file)
            yield from _rows_of(row.text, {"path": path, "member": row.key}, tally, config, language, source)


def _rows_of(
    text: str,
    provenance: dict[str, Any],
    tally: SourceTally,
    config: IngestConfig,
    language: str | None,
    budget: PackagedSource | PathSource,
) -> Iterator[dict[str, Any]]:
    reason = "gigantic" if len(text) > config.gigantic_characters else ""
    pieces = [] if reason else cut_document(text, config.document_characters)
    if reason:
        tally.drop(reason, provenance["member"])
    for number, piece in enumerate(pieces):
        if budget.documents is not None and tally.documents >= budget.documents:
            return
        if budget.characters is not None and tally.characters >= budget.characters:
            return
        reason = drop_reason(piece, config)
        if reason:
            tally.drop(reason, provenance["member"])
            continue
        tally.documents += 1
        tally.characters += len(piece)
        # help pages of a Chinese package are partly untranslated, so only code keeps its declared language
        found = "code" if language == "code" else detect_language(piece)
        tally.languages[found] += 1
        yield {
            "id": _identify(tally.name, provenance, number),
            "text": piece,
            "source": tally.name,
            "category": tally.category,
            "language": found,
            "licence": tally.licence,
            "provenance": json.dumps({**provenance, "piece": number}, ensure_ascii=False, sort_keys=True),
        }


def _look_up(name: str) -> PackagedText:
    if name not in REGISTRY:
        raise SourceError(
            f"source {name!r} is not registered; known are {', '.join(sorted(REGISTRY))}. "
            "For your own files use {type: path, path: ..., category: ...}."
        )
    return REGISTRY[name]


def _order(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _identify(source: str, provenance: dict[str, Any], piece: int) -> str:
    key = f"{source}:{provenance.get('path', '')}:{provenance['member']}:{provenance.get('part', '')}:{piece}"
    return f"{source}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _notes(tallies: list[SourceTally]) -> str:
    return "; ".join(f"{tally.name}: {tally.note or dict(tally.dropped) or 'nothing read'}" for tally in tallies)


def _drop_sections(tallies: list[SourceTally]) -> list[Section]:
    rows = [
        {"source": tally.name, "reason": reason, "texts": count, "the first of them": tally.first_dropped[reason]}
        for tally in tallies
        for reason, count in tally.dropped.most_common()
    ]
    return [Section(title="Why texts were dropped", table=rows)] if rows else []


def _report(tallies: list[SourceTally]) -> Outcome:
    dropped: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for tally in tallies:
        dropped += tally.dropped
        languages += tally.languages
    documents = sum(tally.documents for tally in tallies)
    characters = sum(tally.characters for tally in tallies)
    missing = [tally for tally in tallies if tally.note]
    table = [
        {
            "source": tally.name,
            "category": tally.category,
            "documents": tally.documents,
            "characters": tally.characters,
            "dropped": sum(tally.dropped.values()),
            "licence": tally.licence,
            "note": tally.note,
        }
        for tally in tallies
    ]
    text = f"{len(missing)} of {len(tallies)} sources could not be had on this machine." if missing else ""
    return Outcome(
        summary=f"Read {documents:,} documents with {characters:,} characters from "
        f"{len(tallies) - len(missing)} sources; {sum(dropped.values()):,} texts were dropped.",
        counts={
            "kept": documents,
            "dropped": sum(dropped.values()),
            "sources": len(tallies),
            "sources_unavailable": len(missing),
            **{f"dropped_{reason}": count for reason, count in sorted(dropped.items())},
            **{f"language_{name}": count for name, count in sorted(languages.items())},
        },
        metrics={"characters": float(characters), "characters_per_document": characters / max(1, documents)},
        sections=[
            Section(title="Sources", text=text, table=table),
            *_drop_sections(tallies),
            Section(
                title="Languages",
                table=count_rows(languages, "language", "documents"),
            ),
        ],
    )
