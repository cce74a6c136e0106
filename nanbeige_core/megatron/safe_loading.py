"""Refuse a distributed checkpoint that carries code, before torch unpickles it.

Its index, `.metadata`, is a pickle, and so are the objects among the tensors (`_extra_state`); torch loads both without
a look, and a pickle may call whatever it names. `common.pt` and the tensors it reads with `weights_only` by itself.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

INDEX = ".metadata"
_ALLOWED = {
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
    "torch": {"Size", "bfloat16", "bool", "float16", "float32", "float64", "int32", "int64", "uint8"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {"SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"},
    "torch.serialization": {"_get_layout"},
}  # fmt: skip


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes, path: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what an index may name; raises UnpicklingError for anything else before it is looked up."""
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(
                f"{self._path} names {module}.{name}, expected only parts of a checkpoint's index: loading it would "
                "run that code. Do not use this checkpoint; make it again, or take it from where it was made."
            )
        return super().find_class(module, name)


def refuse_code(directory: Path) -> None:
    """Raise pickle.UnpicklingError when loading a checkpoint would run code; a directory without an index passes."""
    path = directory / INDEX
    if not path.exists():
        return
    index: Metadata = _Reader(path.read_bytes(), path).load()
    for item, place in (index.storage_data or {}).items():
        if isinstance(index.state_dict_metadata[item.fqn], BytesStorageMetadata):
            with (directory / place.relative_path).open("rb") as file:
                file.seek(place.offset)
                content = file.read(place.length)
            with torch.serialization.safe_globals([io.BytesIO]):  # what Transformer Engine keeps its scales in
                torch.load(io.BytesIO(content), weights_only=True)
