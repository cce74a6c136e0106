from pathlib import Path

import pytest
from prefect.results import ResultRecordMetadata

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError
from tasks.hand_off import ReferenceSerializer
from tests.artifacts.making import seal


def test_a_reference_whose_artifact_is_gone_does_not_load(store: Store, tmp_path: Path) -> None:
    reference = seal(store, "ingest", "a" * 64, Kind.CORPUS).reference
    serializer = ReferenceSerializer(type="artifact-reference", store=store.url, cache=str(tmp_path))
    assert serializer.loads(serializer.dumps(reference)) == reference
    for path in Path(store.root, reference.address).glob("documents/*"):
        path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        serializer.loads(serializer.dumps(reference))


def test_a_state_from_the_server_which_names_the_serializer_by_type_alone_can_be_read() -> None:
    metadata = ResultRecordMetadata.model_validate(
        {"storage_key": "ingest/aaaa.json", "serializer": {"type": "artifact-reference"}}
    )
    assert isinstance(metadata.serializer, ReferenceSerializer)
