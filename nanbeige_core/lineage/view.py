"""The artifacts of a store as a graph: who was made from whom, and what each stage declares of its rows."""

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.lineage.declare import PER_PROBLEM, RowTable, StageRows, Trained
from nanbeige_core.lineage.ledger import Ledger, LedgerMissingError
from nanbeige_core.stages import STAGES

Key = tuple[str, str]


class ArtifactView:
    """One artifact with its place in the graph; files are fetched when they are first asked for."""

    def __init__(self, manifest: Manifest, lineage: "Lineage") -> None:
        self.manifest = manifest
        self.lineage = lineage

    @property
    def address(self) -> str:
        """Return the readable address."""
        return self.manifest.address

    @property
    def key(self) -> Key:
        """Return stage and fingerprint."""
        return self.manifest.stage, self.manifest.fingerprint

    @cached_property
    def path(self) -> Path:
        """Return the local directory of the files."""
        return self.lineage.store.local_path(self.manifest)

    @cached_property
    def rows(self) -> StageRows:
        """Return what the stage's room declares; nothing for a stage type this version does not know."""
        spec = STAGES.get(self.manifest.uses)
        return spec.rows() if spec else StageRows()

    @cached_property
    def tables(self) -> tuple[RowTable, ...]:
        """Return the stage's row tables, its per-problem measurements among them where it kept any."""
        kept = PER_PROBLEM.file in self.manifest.files
        return (*self.rows.tables, PER_PROBLEM) if kept else self.rows.tables

    @property
    def adopted(self) -> bool:
        """Tell whether the artifact was registered from outside: it has no history here."""
        return "adopted" in self.manifest.identity

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Return what the stage trained on; nothing is known of an adopted model."""
        return () if self.adopted else self.rows.trained

    @property
    def holds_weights(self) -> bool:
        """Tell whether the artifact is a model."""
        return self.manifest.kind in (Kind.CHECKPOINT, Kind.REWARD_MODEL, Kind.HF_MODEL)

    @cached_property
    def config(self) -> Any:
        """Return the identity config as its own class."""
        return STAGES[self.manifest.uses].config_class().model_validate(self.manifest.identity["config"])

    def input(self, name: str) -> "ArtifactView | None":
        """Return the artifact given under an input's name; None when there was none or it is gone."""
        reference = self.manifest.inputs.get(name)
        return self.lineage.view(reference) if reference else None

    def need(self, name: str) -> "ArtifactView":
        """Return an input without which the ledger cannot be derived; raises LedgerMissingError when it is gone."""
        found = self.input(name)
        if found is None:
            raise LedgerMissingError(
                f"{self.address} kept no ledger, and its input {name} is not in the store, so that none can be "
                f"derived. Run `nanbeige run --only {self.manifest.stage} --force` to make one."
            )
        return found

    def cached(self, file: str) -> Path:
        """Return where something derived from this artifact is kept beside the store."""
        folder = self.lineage.store.cache / "lineage" / f"{self.address}-{self.manifest.digest[:12]}"
        return folder / file

    def inputs(self) -> dict[str, "ArtifactView"]:
        """Return every input that is still in the store."""
        found = {name: self.lineage.view(reference) for name, reference in self.manifest.inputs.items()}
        return {name: view for name, view in found.items() if view is not None}

    def model_before(self) -> "ArtifactView | None":
        """Return the artifact whose weights this one goes on from."""
        name = self.rows.starts_from or self.rows.keeps
        return self.input(name) if name else None

    def open_ledger(self, trained: Trained) -> Ledger:
        """Open one of the stage's ledgers; raises LedgerMissingError saying what to run again."""
        module, _, name = trained.ledger.partition(":")
        return getattr(import_module(f"nanbeige_core.{module}"), name)(self)


class Lineage:
    """Every artifact of a store, inputs before what was made from them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        views = [ArtifactView(manifest, self) for manifest in store.manifests()]
        self._by_key: dict[Key, ArtifactView] = {view.key: view for view in views}
        self._by_address = {view.address: view for view in views}

    def view(self, reference: ArtifactRef) -> ArtifactView | None:
        """Return the artifact a reference names, None when it is not in the store."""
        return self._by_key.get((reference.stage, reference.fingerprint))

    def at(self, address: str) -> ArtifactView:
        """Return the artifact at an address as this room prints it."""
        return self._by_address[address]

    def of(self, manifest: Manifest) -> ArtifactView:
        """Return the view of a manifest of this store."""
        return self._by_key[manifest.stage, manifest.fingerprint]

    @cached_property
    def ordered(self) -> list[ArtifactView]:
        """Return all artifacts, inputs first."""
        done: dict[Key, ArtifactView] = {}
        entered: set[Key] = set()
        pending = sorted(self._by_key.values(), key=lambda one: one.manifest.started, reverse=True)
        while pending:  # no recursion: an artifact whose inputs were made again may have thousands of them behind it
            view = pending[-1]
            upstream = [one for one in view.inputs().values() if one.key not in entered and one.key not in done]
            if upstream and view.key not in entered:
                entered.add(view.key)
                pending += reversed(upstream)
            else:
                pending.pop()
                done.setdefault(view.key, view)
        return list(done.values())

    def model_history(self, view: ArtifactView) -> list[ArtifactView]:
        """Return the checkpoints whose weights led to this one, itself first, back to the random start."""
        history: list[ArtifactView] = []
        current: ArtifactView | None = view
        while current is not None:
            history.append(current)
            current = current.model_before()
        return history

    def ancestors(self, view: ArtifactView) -> list[ArtifactView]:
        """Return every artifact `view` depends on, inputs first, without itself."""
        found: set[Key] = set()
        pending = list(view.inputs().values())
        while pending:
            current = pending.pop()
            if current.key not in found:
                found.add(current.key)
                pending += current.inputs().values()
        return [one for one in self.ordered if one.key in found]

    def descendants(self, view: ArtifactView) -> list[ArtifactView]:
        """Return every artifact that depends on `view`, in order."""
        found = {view.key}
        for one in self.ordered:
            if any(upstream.key in found for upstream in one.inputs().values()):
                found.add(one.key)
        return [one for one in self.ordered if one.key in found - {view.key}]
