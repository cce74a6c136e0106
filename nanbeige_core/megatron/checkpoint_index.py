"""torch's index of a distributed checkpoint, `.metadata`, is a pickle: read only if it names parts of an index alone.

torch unpickles it without a look, and a pickle may call whatever it names. The tensors and `common.pt` beside it are
read with `weights_only`.
"""

import io
import pickle
from pathlib import Path
from typing import Any

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


def check_index(directory: Path) -> None:
    """Raise pickle.UnpicklingError when the index of a checkpoint would run code; one that is not there is not ours."""
    path = directory / INDEX
    if path.exists():
        _Reader(path.read_bytes(), path).load()
