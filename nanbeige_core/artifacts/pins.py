"""Pins and aliases: small files in the store that keep artifacts from being collected.

A pin says "keep this one", with a note why; an alias gives an artifact a name (`@best`) that every command takes in
place of an address. Both keep the artifact's ancestors too (`garbage.py`). One file each, so that two people can pin
at once and the store may be any fsspec URL.
"""

import json
import re
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import address
from nanbeige_core.artifacts.store import ALIASES, PINS, Store
from nanbeige_core.errors import ArtifactError, RecipeError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Pin(BaseModel):
    """One kept artifact: its identity, a person's note, and since when (UTC); `name` is set for an alias."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    fingerprint: str
    note: str = ""
    since: str
    name: str = ""

    @property
    def address(self) -> str:
        """Return the artifact's readable address."""
        return address(self.stage, self.fingerprint)


def pin(store: Store, manifest: Manifest, note: str = "") -> Pin:
    """Keep an artifact and its ancestors until it is unpinned; pinning again replaces the note."""
    made = _pin(manifest, note=note)
    store.write(f"{PINS}/{manifest.stage}-{manifest.fingerprint[:16]}.json", _encoded(made))
    return made


def unpin(store: Store, manifest: Manifest) -> None:
    """Remove the pin of an artifact; raises ArtifactError when it has none."""
    path = f"{store.root}/{PINS}/{manifest.stage}-{manifest.fingerprint[:16]}.json"
    with store.reaching(f"unpinning {manifest.reference.address}"):
        if not store.filesystem.exists(path):
            raise ArtifactError(f"{manifest.reference.address} is not pinned. `nanbeige pins` lists what is.")
        store.filesystem.rm_file(path)


def set_alias(store: Store, name: str, manifest: Manifest) -> Pin:
    """Let `@name` stand for an artifact; an existing alias moves. Raises RecipeError for a name no path can carry."""
    made = _pin(manifest, name=checked_name(name))
    store.write(f"{ALIASES}/{made.name}.json", _encoded(made))
    return made


def remove_alias(store: Store, name: str) -> None:
    """Remove an alias; the artifact stays. Raises ArtifactError for an unknown one."""
    known = {entry.name for entry in list_aliases(store)}
    plain = name.removeprefix("@")
    if plain not in known:
        raise ArtifactError(f"no alias @{plain} in {store.url}; {nearest(plain, known) if known else 'it has none'}")
    with store.reaching(f"removing the alias @{plain}"):
        store.filesystem.rm_file(f"{store.root}/{ALIASES}/{plain}.json")


def list_pins(store: Store) -> list[Pin]:
    """Return every pin, oldest first. Raises ArtifactError for one that cannot be read."""
    return _read_all(store, PINS)


def list_aliases(store: Store) -> list[Pin]:
    """Return every alias, oldest first. Raises ArtifactError for one that cannot be read."""
    return _read_all(store, ALIASES)


def checked_name(name: str) -> str:
    """Return an alias without its `@`; raise RecipeError unless letters, digits, dot, dash and underscore make it."""
    plain = name.removeprefix("@")
    if not _NAME.fullmatch(plain):
        raise RecipeError(
            f"alias {name!r}: expected 1 to 64 letters, digits, '.', '-' or '_', beginning with a letter or digit "
            "(it becomes a file name in the store), for example best-dpd."
        )
    return plain


def _pin(manifest: Manifest, *, note: str = "", name: str = "") -> Pin:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Pin(stage=manifest.stage, fingerprint=manifest.fingerprint, note=note, since=since, name=name)


def _encoded(made: Pin) -> bytes:
    return made.model_dump_json(indent=1).encode()


def _read_all(store: Store, folder: str) -> list[Pin]:
    found: list[Pin] = []
    with store.reaching("listing pins"):
        texts = {
            path: store.filesystem.cat_file(path) for path in store.filesystem.glob(f"{store.root}/{folder}/*.json")
        }
    for path, text in texts.items():
        try:
            found.append(Pin.model_validate(json.loads(text)))
        except (ValidationError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not a readable pin ({type(error).__name__}): what it keeps is unknown, so nothing may be "
                "collected. Delete the file and pin the artifact again."
            ) from error
    return sorted(found, key=lambda entry: (entry.since, entry.address))
