"""`nanbeige retrieve QUERY`: documents of a curated or tagged corpus by text and meaning in one query."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

from flows.completion import complete_artifact
from flows.console import JsonOption, StoreOption, console, open_store, print_json, print_rows
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError

if TYPE_CHECKING:
    from nanbeige_core.data.hybrid_index import Embed, HybridIndex

SHOWN = 160
"""Characters of a document that the table quotes."""

SHOWN_COLUMNS = ("id", "text", "source", "category", "language", "tag_score")
VECTOR_SIZE = 64
LAYOUT = 1
"""Of a stored index; another one is built where it or what terms are has changed."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("retrieve")(retrieve)


def retrieve(
    query: Annotated[str, typer.Argument(help="A few words, or a whole document that is to be resembled.")],
    artifact: Annotated[
        str, typer.Option("--from", help="Curated or tagged corpus.", autocompletion=complete_artifact)
    ] = "retrieval_dedup",
    embedding: Annotated[
        str, typer.Option("--embedding", help="Embedding artifact; empty: latent vectors of the corpus itself.")
    ] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Documents to show.")] = 10,
    source: Annotated[list[str] | None, typer.Option("--source", help="Only these sources; repeatable.")] = None,
    category: Annotated[list[str] | None, typer.Option("--category", help="Only these; repeatable.")] = None,
    language: Annotated[list[str] | None, typer.Option("--language", help="Only these; repeatable.")] = None,
    minimum: Annotated[float, typer.Option("--min-score", min=0, max=9, help="Least tag score.")] = 0.0,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Find documents by BM25 and vectors in one query, fused by reciprocal rank."""
    from nanbeige_core.data.hybrid_index import Filters
    from nanbeige_core.data.tables import take_rows

    opened = open_store(store)
    manifest = opened.resolve(artifact)
    if manifest.kind not in (Kind.CURATED_CORPUS, Kind.TAGGED_CORPUS):
        raise RecipeError(
            f"{manifest.reference.address} is a {manifest.kind.value}; a curated or a tagged corpus can be queried. "
            "Name one with --from."
        )
    built = opened.resolve(embedding) if embedding else None
    if built and built.kind is not Kind.EMBEDDING:
        raise RecipeError(f"{built.reference.address} is a {built.kind.value}, --embedding names an Embedding.")
    index, embed = _open_index(opened, manifest, built)
    for name, wanted in (("source", source), ("category", category), ("language", language)):
        unknown = sorted(set(wanted or ()) - set(index.known_values(name)))
        if unknown:
            raise RecipeError(
                f"no document has {name} {unknown[0]!r}; there are {', '.join(index.known_values(name))}."
            )
    filters = Filters(tuple(source or ()), tuple(category or ()), tuple(language or ()), minimum)
    hits = index.search(query, embed([query])[0], count, filters=filters)
    rows = take_rows(opened.local_path(manifest) / "documents", [hit.row for hit in hits], SHOWN_COLUMNS)
    found: list[dict[str, Any]] = [row | hit._asdict() for row, hit in zip(rows, hits, strict=True)]
    if as_json:
        print_json({"artifact": manifest.reference.address, "query": query, "hits": found})
        return
    if not found:
        console.print(f"nothing found among {int(index.allowed(filters).sum()):,} documents that pass the filters")
    print_rows([_row(hit) for hit in found], f"{manifest.reference.address}: {query[:60]}")


def _open_index(store: Store, manifest: Manifest, built: Manifest | None) -> tuple["HybridIndex", "Embed"]:
    """Read the index of a corpus out of the store's cache, or build it and leave it there."""
    import pyarrow as pa

    from nanbeige_core.data.embedding import TextEmbedding
    from nanbeige_core.data.hybrid_index import HybridIndex
    from nanbeige_core.data.latent import LATENT_DOCUMENTS, LatentEmbedding, latent_embedder, spread
    from nanbeige_core.data.tables import read_table

    given = TextEmbedding.load(store.local_path(built)).embed if built else None
    key = f"{manifest.digest[:16]}-{built.digest[:16] if built else 'latent'}-{LAYOUT}"
    path = store.cache / "indexes" / f"{key}.npz"
    with suppress(OSError, ValueError, KeyError, BadZipFile):  # none, or one that was cut off
        index, stored = HybridIndex.load(path)
        return index, given or LatentEmbedding(**stored)
    documents = read_table(store.local_path(manifest) / "documents", SHOWN_COLUMNS)
    sample = documents["text"].take(pa.array(spread(len(documents), LATENT_DOCUMENTS)))
    embed = given or latent_embedder(sample.to_pylist(), size=VECTOR_SIZE, seed=0)
    index = HybridIndex.build(documents, embed)
    index.save(path, **vars(embed) if isinstance(embed, LatentEmbedding) else {})
    return index, embed


def _row(hit: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": hit["id"],
        "score": round(hit["score"], 4),
        "text / vector rank": f"{hit['text_rank'] or '-'} / {hit['vector_rank'] or '-'}",
        "language": hit["language"],
        "tag_score": round(hit["tag_score"], 2),
        "text": " ".join(hit["text"].split())[:SHOWN],
    }
