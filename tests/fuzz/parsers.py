"""Every parser of bytes that nobody vouches for, and the only errors it may raise."""

import gzip
import io
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME
from nanbeige_core.artifacts.store import Store
from nanbeige_core.data.indexed_dataset import MAGIC, IndexedDatasetError, read_indexed_dataset, write_indexed_dataset
from nanbeige_core.data.sources.html import html_to_text
from nanbeige_core.data.sources.path import SourceError, read_path
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe, load_recipe_file
from nanbeige_core.redaction import redact
from nanbeige_core.verify.agentic import as_data, read_turn
from nanbeige_core.verify.answer import extract_answer
from nanbeige_core.verify.namespace_guest.replies import Stop, read_reply
from nanbeige_core.verify.notation import plain_notation, split_list
from nanbeige_core.verify.tool_call import BadCall, calculate, read_call
from nanbeige_core.verify.typed_data import ProtocolViolation, decode
from nanbeige_core.verify.units import read_unit
from tests.artifacts.making import draft

FOLDER = Path(tempfile.mkdtemp(prefix="nanbeige-fuzz-"))


class Parser(NamedTuple):
    """A function of bytes, the errors that are its contract, and inputs to begin with."""

    parse: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...] = ()
    seeds: tuple[bytes, ...] = ()


def text(data: bytes) -> str:
    return data.decode("utf-8", errors="surrogateescape")


def reply(data: bytes) -> object:
    return decode(read_reply(data, "r"))


def call(data: bytes) -> object:
    return calculate(read_call(text(data)))


def answer(data: bytes) -> object:
    response, _, gold = text(data).partition("\0")
    return extract_answer(response, gold), split_list(plain_notation(response)), read_unit(gold)


def turn(data: bytes) -> object:
    return read_turn(text(data)), as_data(text(data))


def corpus(name: str, wrap: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], object]:
    def parse(data: bytes) -> object:
        path = FOLDER / name
        path.write_bytes(wrap(data))
        rows = list(read_path(path, "text"))
        for row in rows:
            if row.text is not None:
                row.text.encode("utf-8")
        return rows

    return parse


def dataset(data: bytes) -> object:
    (FOLDER / "set.idx").write_bytes(MAGIC + data)
    (FOLDER / "set.bin").write_bytes(data[:64])
    return read_indexed_dataset(FOLDER / "set")


def manifest(data: bytes) -> object:
    path = FOLDER / "store/ingest" / ("a" * 16) / MANIFEST_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    store = Store(FOLDER / "store", FOLDER / "cache")
    found = store.look("ingest", "a" * 64)
    listed = store.manifests()
    assert all(not name.startswith("/") and ".." not in name.split("/") for entry in listed for name in entry.files)
    return found


def recipe(data: bytes) -> object:
    path = FOLDER / "pipelines.yaml"
    path.write_bytes(data)
    load_recipe_file(path)
    return load_recipe(path, profile="laptop")


def override(data: bytes) -> object:
    path = FOLDER / "small.yaml"
    path.write_text(
        "recipe: x\nstages: {ingest: {config: {sources: [{type: debian_html}]}}}\nprofiles: {laptop: {title: t}}\n"
    )
    return load_recipe(path, profile="laptop", overrides=[text(data)])


def valid_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), sink)
    return sink.getvalue()


def valid_arrow() -> bytes:
    sink = io.BytesIO()
    table = pa.table({"text": ["a", "b"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def valid_index() -> bytes:
    """Return an index, less its first bytes, of documents that fill the 64 bytes `dataset` puts beside it."""
    write_indexed_dataset(FOLDER / "valid", [np.zeros(30, np.uint16), np.ones(2, np.uint16)], 100)
    return (FOLDER / "valid.idx").read_bytes()[len(MAGIC) :]


def valid_manifest() -> bytes:
    return draft("ingest", "a" * 64, Kind.CORPUS).model_dump_json().encode()


RECIPE = b"recipe: x\nstages: {ingest: {config: {seed: 1}}}\nprofiles: {laptop: {title: t}}\n"

PARSERS: dict[str, Parser] = {
    "sandbox reply": Parser(reply, (Stop, ProtocolViolation), (b'{"id":"r","value":["list",[["int","0x2a"]]]}',)),
    "tool call": Parser(
        call, (BadCall,), (b'<tool_call>{"name":"calculator","arguments":{"expression":"1/3+2"}}</tool_call>',)
    ),
    "agent turn": Parser(turn, (), (b'<tool_call>{"name":"verdict","arguments":{"equivalent":true}}</tool_call>',)),
    "answer": Parser(answer, (), (b"<think>x</think>\\boxed{x^{2} = 3\\frac{1}{2}}\x005 km/h",)),
    "jsonl": Parser(corpus("a.jsonl"), (SourceError,), (b'{"text": "a"}\n{"text": "\\ud800"}\n', b"[" * 3000)),
    "gzip": Parser(corpus("a.jsonl.gz"), (SourceError,), (gzip.compress(b'{"text": "a"}\n'),)),
    "parquet": Parser(corpus("a.parquet"), (SourceError,), (b"PAR1PAR1", valid_parquet())),
    "arrow": Parser(corpus("a.arrow"), (SourceError,), (valid_arrow(),)),
    "html": Parser(lambda data: html_to_text(text(data)), (), (b"<p>a<pre>b</pre>&amp;<script>c</script>",)),
    "indexed dataset": Parser(dataset, (IndexedDatasetError,), (bytes(25), valid_index())),
    "manifest": Parser(
        manifest, (), (b'{"stage":"ingest","files":{"../x":{"bytes":1,"sha256":""}}}', valid_manifest())
    ),
    "recipe": Parser(recipe, (RecipeError,), (RECIPE, b"!!python/object/apply:os.system [true]")),
    "override": Parser(override, (RecipeError,), (b"ingest.seed=3", b"ingest.sources=[{type: path, path: x}]")),
    "redaction": Parser(lambda data: redact(text(data)), (), (b"s3://a:b@c token=abcdefgh Bearer abcdefghij",)),
}


def feed(name: str, data: bytes) -> None:
    """Give bytes to a parser; anything but its own refusals is a finding."""
    parser = PARSERS[name]
    try:
        parser.parse(data)
    except parser.refuses:
        return


def seeds(names: Iterable[str] = PARSERS) -> list[tuple[str, bytes]]:
    """Return every parser's first inputs."""
    return [(name, seed) for name in names for seed in PARSERS[name].seeds]


def dictionary(_: Any = None) -> list[bytes]:
    """Return words that random bytes would not form soon."""
    return [word for _, seed in seeds() for word in seed.split(b'"') if 2 < len(word) < 40]
