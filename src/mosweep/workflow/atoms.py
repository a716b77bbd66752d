"""Atoms: entries of the store that workflows read and create.

An atom never changes, and it records what it was made from. Its id is ``<type>-<first 16 digits of
its key>``. Results of a sweep's stages are atoms, too: fine-tunes are ``model`` atoms, data sets
are ``dataset`` atoms, and evaluations are ``eval`` atoms.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from mosweep.core import fingerprint
from mosweep.core.errors import StoreError, UserError
from mosweep.core.store import Record, Store
from mosweep.core.work import Kind
from mosweep.workflow.publishing import DATA, default_store, publish

if TYPE_CHECKING:
    from mosweep.datasets.jsonl import JSONLDataset
    from mosweep.evals.base import EvalResults

__all__ = ["Atom", "DatasetAtom", "EvalAtom", "ModelAtom"]

#: Digits of a key in an id.
DIGITS = 16
#: Types of atoms by what a stage leaves.
_STAGES = {"data": "dataset", "scores": "eval", "model": "model"}


@dataclass(frozen=True)
class Atom:
    """An entry of the store: its data, its origin and its metadata.

    ``made_from`` maps argument names to atom ids.
    """

    id: str
    type: str
    key: str
    folder: Path
    created_at: datetime
    made_from: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    store: Store = field(default_factory=default_store, repr=False, compare=False)

    #: The ``type`` of a subclass.
    kind: ClassVar[str | None] = None

    @classmethod
    def load(cls, atom_id: str, *, store: Store | None = None) -> Self:
        """The atom ``atom_id``.

        Raises ``UserError`` if it does not exist, or if its type is not that of this class.
        """
        store = store or default_store()
        kind, _, digits = atom_id.rpartition("-")
        if not kind or not digits or set(digits) - set("0123456789abcdef"):
            raise UserError(f"{atom_id!r} is not an atom id; ids look like model-0123456789abcdef")
        whole = len(digits) == 64
        keys = (
            [digits]
            if whole
            else [path.stem for path in store.record_path(digits).parent.glob(f"{digits}*.json")]
        )
        if len(keys) > 1:
            raise UserError(f"{atom_id} matches {len(keys)} atoms; give more digits")
        record = store.read(keys[0], whole=True) if keys else None
        if record is None:
            raise UserError(f"there is no atom {atom_id} in {store.root}")
        atom = _atom(record, store)
        if atom.type != kind:
            raise UserError(f"{atom_id} is a {atom.type}, not a {kind}; its id is {atom.id}")
        if not isinstance(atom, cls):
            raise UserError(f"{atom_id} is a {atom.type}, not a {cls.kind}")
        return atom

    @classmethod
    def create(
        cls,
        artifact_path: str | Path,
        *,
        type: str | None = None,
        user: str | None = None,
        made_from: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        store: Store | None = None,
    ) -> Self:
        """Copy the file or folder ``artifact_path`` into the store.

        The same content with the same metadata is the same atom, whatever the ``user``.
        """
        kind = type or cls.kind
        if kind is None:
            raise UserError(
                "an atom needs a type; give type=…, or create a DatasetAtom, ModelAtom or EvalAtom"
            )
        place = Path(artifact_path)
        if not place.exists():
            raise UserError(f"{place} does not exist")
        names = sorted(_files(place)) if place.is_dir() else [place.name]
        digest = fingerprint.digest_tree(place if place.is_dir() else place.parent, names)
        about = {
            "digest": digest,
            "metadata": dict(metadata or {}),
            "made_from": dict(made_from or {}),
        }
        payload = {"kind": kind, "work": "Atom", "version": 1, "config": about, "inputs": {}}
        facts = {
            "type": kind,
            "metadata": dict(metadata or {}),
            "made_from": dict(made_from or {}),
            "user": user,
        }
        store = store or default_store()
        atom = _atom(publish(store, payload, facts, place), store)
        assert isinstance(atom, cls)
        return atom

    def get_data_path(self) -> Path:
        """The folder with the atom's files. Never write to it."""
        inside = self.folder / DATA
        return inside if inside.is_dir() else self.folder

    def parents(self) -> dict[str, Atom]:
        """The atoms that it was made from, by argument name."""
        return {
            name: Atom.load(atom_id, store=self.store) for name, atom_id in self.made_from.items()
        }

    def provenance(self) -> Iterator[Atom]:
        """This atom and its ancestors, each once, nearest first."""
        seen: set[str] = set()
        queue = [self]
        while queue:
            atom = queue.pop(0)
            if atom.id not in seen:
                seen.add(atom.id)
                yield atom
                queue += atom.parents().values()

    def tree(self) -> str:
        """The provenance as text, one atom per line."""
        return "\n".join(self._lines("", ""))

    def _lines(self, name: str, indent: str) -> Iterator[str]:
        label = f"{name}: " if name else ""
        origin = f"  ({self.step})" if self.step else ""
        yield f"{indent}{label}{self.id}{origin}"
        for argument, parent in self.parents().items():
            yield from parent._lines(argument, indent + "  ")

    @property
    def step(self) -> str:
        """The step of a workflow, or the stage of a sweep, that made it.

        Empty for an atom that was created by hand.
        """
        return str(self.metadata.get("step", ""))


class DatasetAtom(Atom):
    """A data set: one or more JSONL files."""

    kind = "dataset"

    @classmethod
    async def from_dataset(
        cls,
        dataset: JSONLDataset,
        *,
        metadata: Mapping[str, Any] | None = None,
        store: Store | None = None,
    ) -> Self:
        """Put ``dataset`` into the store."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            await dataset.save(Path(folder) / "train.jsonl")
            return cls.create(
                Path(folder) / "train.jsonl",
                metadata={"samples": len(dataset), **(metadata or {})},
                store=store,
            )

    async def to_dataset(self) -> JSONLDataset:
        """The training samples: ``train.jsonl``, or the only JSONL file."""
        from mosweep.datasets.jsonl import JSONLDataset

        files = sorted(self.get_data_path().rglob("*.jsonl"))
        chosen = [path for path in files if path.name == "train.jsonl"] or files
        if len(chosen) != 1:
            raise UserError(
                f"{self.id} has {len(files)} JSONL files and no train.jsonl; load one of them "
                "with JSONLDataset.load"
            )
        return await JSONLDataset.load(chosen[0])


class ModelAtom(Atom):
    """A model: its id at a provider, or its files, or both."""

    kind = "model"

    def get_model_id(self) -> str:
        """The id for evaluations, from the metadata or the file ``model_id.txt``."""
        known = self.metadata.get("model_id")
        file = self.get_data_path() / "model_id.txt"
        if known is None and file.exists():
            known = file.read_text().strip()
        if not known:
            raise UserError(
                f"{self.id} has no model id: set AtomConstructor(metadata={{'model_id': …}}) or "
                "write a file model_id.txt"
            )
        return str(known)


class EvalAtom(Atom):
    """Results of an evaluation."""

    kind = "eval"

    async def to_eval_results(self) -> EvalResults:
        """The results, from a file of ``EvalResults.save`` or from a sweep's evaluation."""
        from mosweep.core.samples import SAMPLES, read_samples
        from mosweep.evals.base import EvalResults

        if "metrics" in self.metadata:
            task = str(self.metadata["task"])
            metrics = {**self.metadata["metrics"], "n": float(self.metadata["n"])}
            samples = self.folder / SAMPLES
            return EvalResults(
                str(self.metadata["model_id"]),
                {task: metrics},
                read_samples(samples) if samples.exists() else (),
            )
        files = sorted(self.get_data_path().rglob("*.json"))
        if len(files) != 1:
            raise UserError(
                f"{self.id} has {len(files)} JSON files; expected one, from EvalResults.save"
            )
        return await EvalResults.load(files[0])


_CLASSES: Mapping[str, type[Atom]] = {
    cls.kind: cls for cls in (DatasetAtom, ModelAtom, EvalAtom) if cls.kind
}


def atom_id(kind: str, key: str) -> str:
    """The id of the atom of type ``kind`` with the given key."""
    return f"{kind}-{key[:DIGITS]}"


def _files(folder: Path) -> Iterator[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield str((Path(root) / name).relative_to(folder))


def _atom(record: Record, store: Store) -> Atom:
    facts, data = record.facts, record.data
    own = "type" in facts and "made_from" in facts
    kind = str(facts["type"]) if own else _type_of(data["kind"])
    if own:
        made_from, metadata = facts["made_from"], facts["metadata"]
    else:
        made_from = {role: _id_of(store, key) for role, key in data["payload"]["inputs"].items()}
        metadata = {**facts, "step": data.get("label", kind)}
    created = datetime.fromtimestamp(float(data.get("finished", 0)), UTC)
    cls = _CLASSES.get(kind, Atom)
    return cls(
        atom_id(kind, record.key),
        kind,
        record.key,
        record.folder,
        created,
        made_from,
        metadata,
        store,
    )


def _type_of(kind: Any) -> str:
    """The type of the atom that a stage of ``kind`` makes."""
    known = Kind.of(kind)
    return known.name if known.optional else _STAGES.get(known.leaves, known.name)


def _id_of(store: Store, key: str) -> str:
    """The id of a stage's input. Only the input's record knows its type."""
    with contextlib.suppress(StoreError):
        if (record := store.read(key)) is not None:
            return atom_id(_type_of(record.data["kind"]), key)
    return atom_id("stage", key)
