"""`nanbeige retrieve QUERY`: documents of a curated or tagged corpus by text and meaning in one query."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.completion import complete_artifact
from flows.console import JsonOption, StoreOption, console, open_store, print_json, print_rows, words_aside
from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError

if TYPE_CHECKING:
    from nanbeige_core.data.document_table import DocumentTable, Filters

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
    ray_address: Annotated[
        str, typer.Option("--ray-address", help="Ray cluster that builds the table; empty: this machine does.")
    ] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Find documents by BM25 and vectors in one query, fused by reciprocal rank."""
    from nanbeige_core.data.document_table import DocumentTableError, Filters
    from nanbeige_core.data.executors import ExecutorError
    from nanbeige_core.data.tables import TableError

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
    filters = Filters(tuple(source or ()), tuple(category or ()), tuple(language or ()), minimum)
    try:
        table = _open_table(opened, manifest, built, ray_address, as_json)
        _refuse_unknown(table, filters)
        hits = table.search(query, table.embed([query])[0], count, filters=filters)
        rows = table.take([hit.row for hit in hits])
        allowed = None if hits else table.count_allowed(filters)
    except (DocumentTableError, TableError, ExecutorError) as error:
        raise RecipeError(str(error)) from error
    found: list[dict[str, Any]] = [row | hit._asdict() for row, hit in zip(rows, hits, strict=True)]
    if as_json:
        print_json({"artifact": manifest.reference.address, "query": query, "hits": found})
        return
    if not found:
        console.print(f"nothing found among {allowed:,} documents that pass the filters")
    print_rows([_row(hit) for hit in found], f"{manifest.reference.address}: {query[:60]}")


def _refuse_unknown(table: "DocumentTable", filters: "Filters") -> None:
    wanted = (("source", filters.sources), ("category", filters.categories), ("language", filters.languages))
    for name, values in wanted:
        known = table.known_values(name)
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise RecipeError(f"no document has {name} {unknown[0]!r}; there are {', '.join(known)}.")


def _open_table(
    store: Store, manifest: Manifest, built: Manifest | None, ray_address: str, as_json: bool
) -> "DocumentTable":
    """Open the document table of a corpus in the store's cache, or build it there, which is announced."""
    from nanbeige_core.data.document_table import LAYOUT
    from nanbeige_core.data.document_table_build import open_or_build
    from nanbeige_core.data.executors import LocalPool, RayTasks

    def announce(documents: int) -> None:
        with words_aside(as_json):
            console.print(f"building the document table of {documents:,} documents; further questions only open it")

    key = f"{manifest.digest[:16]}-{built.digest[:16] if built else 'latent'}-{LAYOUT}"
    return open_or_build(
        store.local_path(manifest) / "documents",
        store.cache / "tables" / key,
        embedding=store.local_path(built) if built else None,
        executor=RayTasks(ray_address) if ray_address else LocalPool(),
        announce=announce,
    )


def _row(hit: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": hit["id"],
        "score": round(hit["score"], 4),
        "text / vector rank": f"{hit['text_rank'] or '-'} / {hit['vector_rank'] or '-'}",
        "language": hit["language"],
        "tag_score": round(hit["tag_score"], 2),
        "text": " ".join(hit["text"].split())[:SHOWN],
    }
