"""`nanbeige retrieve QUERY`: documents of a curated or tagged corpus by text and meaning in one query."""

from typing import Annotated, Any

import typer

from flows.completion import complete_artifact
from flows.console import JsonOption, StoreOption, console, open_store, print_json, print_rows
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.errors import RecipeError

SHOWN = 160
"""Characters of a document that the table quotes."""


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
    from nanbeige_core.data.embedding import TextEmbedding
    from nanbeige_core.data.hybrid_index import Filters, HybridIndex
    from nanbeige_core.data.latent import latent_embedder
    from nanbeige_core.data.tables import read_table

    opened = open_store(store)
    manifest = opened.resolve(artifact)
    if manifest.kind not in (Kind.CURATED_CORPUS, Kind.TAGGED_CORPUS):
        raise RecipeError(
            f"{manifest.reference.address} is a {manifest.kind.value}; a curated or a tagged corpus can be queried. "
            "Name one with --from."
        )
    columns = ("id", "text", "source", "category", "language", "tag_score")
    documents = read_table(opened.local_path(manifest) / "documents", columns)
    if embedding:
        built = opened.resolve(embedding)
        if built.kind is not Kind.EMBEDDING:
            raise RecipeError(f"{built.reference.address} is a {built.kind.value}, --embedding names an Embedding.")
        embed = TextEmbedding.load(opened.local_path(built)).embed
    else:
        embed = latent_embedder(documents["text"].to_pylist(), size=64, seed=0)
    index = HybridIndex(documents, embed)
    for name, wanted in (("source", source), ("category", category), ("language", language)):
        unknown = sorted(set(wanted or ()) - set(index.known_values(name)))
        if unknown:
            raise RecipeError(
                f"no document has {name} {unknown[0]!r}; there are {', '.join(index.known_values(name))}."
            )
    filters = Filters(tuple(source or ()), tuple(category or ()), tuple(language or ()), minimum)
    hits = index.search(query, count, filters=filters)
    found: list[dict[str, Any]] = [
        {**documents.slice(hit.row, 1).to_pylist()[0], **hit._asdict(), "row": hit.row} for hit in hits
    ]
    if as_json:
        print_json({"artifact": manifest.reference.address, "query": query, "hits": found})
        return
    if not found:
        console.print(f"nothing found among {int(index.allowed(filters).sum()):,} documents that pass the filters")
    print_rows([_row(hit) for hit in found], f"{manifest.reference.address}: {query[:60]}")


def _row(hit: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": hit["id"],
        "score": round(hit["score"], 4),
        "text / vector rank": f"{hit['text_rank'] or '-'} / {hit['vector_rank'] or '-'}",
        "language": hit["language"],
        "tag_score": round(hit["tag_score"], 2),
        "text": " ".join(hit["text"].split())[:SHOWN],
    }
