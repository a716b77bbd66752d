"""Base models.

A generated model has its own stage. Any other model is a ``ModelSource`` in the stages that use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mosweep.config.groups import Model
from mosweep.core.digests import tree_digest
from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.fingerprint import unkeyed
from mosweep.core.paths import cached_here
from mosweep.core.types import Stage
from mosweep.core.work import MODEL, Context, Kind, Traits, Work
from mosweep.models.tiny import TinyArchitecture
from mosweep.stages.base import TrialConfig

__all__ = ["GenerateModel", "ModelSource", "base_model"]


@dataclass(frozen=True)
class GenerateModel(Work):
    """Makes a tiny base model from a seed."""

    architecture: TinyArchitecture
    seed: int

    kind: ClassVar[Kind] = MODEL
    version: ClassVar[int] = 1
    traits: ClassVar[Traits] = Traits(requires={"torch": "local", "tokenizers": "local"})

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Write the folder ``model`` in Hugging Face's layout, and return its facts."""
        from mosweep.models.tiny import generate

        measured = await asyncio.to_thread(
            generate, context.out / "model", self.architecture, seed=self.seed
        )
        return {
            "name": "generated",
            "folder": "model",
            "architecture": asdict(self.architecture),
            **measured,
        }


@dataclass(frozen=True)
class ModelSource:
    """A base model that already exists.

    It is a local folder (identified by its content), a hub id and revision, or an Inspect model
    name.
    """

    digest: str | None = None
    hub: str | None = None
    revision: str | None = None
    inspect: str | None = None
    path: str | None = field(default=None, metadata=unkeyed)

    def folder(self) -> Path:
        """The local folder, with weights and tokenizer in Hugging Face's layout.

        A hub model is downloaded if necessary.
        """
        if self.path is not None:
            return Path(self.path)
        if self.hub is None:
            raise ConfigError(
                "model.path",
                None,
                f"this stage needs the model's weights, but {self.inspect} has only an API; give "
                "a folder",
            )
        try:
            from huggingface_hub import snapshot_download
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "huggingface-hub", "local", f"fetching the model {self.hub}"
            ) from error
        return Path(snapshot_download(self.hub, revision=self.revision))


def base_model(trial: TrialConfig) -> tuple[Stage | None, ModelSource | None]:
    """The stage that generates the trial's base model, or else the model's source."""
    model = trial.config.model
    if model.generate is not None:
        return Stage(
            "model",
            GenerateModel(model.generate, model.generate_seed),
            resources=trial.resources("model", computes=False),
        ), None
    return None, _source(model, trial.config.model_dir)


def folder_of(context: Context, source: ModelSource | None) -> Path:
    """The folder of the base model, for a running stage."""
    generated = context.inputs.get("model")
    if generated is not None:
        return generated.folder / str(generated.facts["folder"])
    assert source is not None
    return source.folder()


def _source(model: Model, model_dir: str | None) -> ModelSource:
    if model.inspect:
        return ModelSource(inspect=model.inspect)
    if model.hub:
        return ModelSource(hub=model.hub, revision=model.revision)
    path = model.path or (model.name if model_dir else None)
    if path is None:
        raise ConfigError("model", model.name, "has no source; give generate, path, hub or inspect")
    folders = [Path(model_dir) / path] if model_dir else []
    folders.append(Path(path))
    for folder in folders:
        if (folder / "config.json").exists():
            return ModelSource(digest=_digest(folder.resolve()), path=str(folder.resolve()))
    raise ConfigError(
        "model.path",
        path,
        "no model folder (one with a config.json) at "
        f"{' or '.join(str(folder.absolute()) for folder in folders)}",
    )


@cached_here
def _digest(folder: Path) -> str:
    names = [
        path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    ]
    return tree_digest(folder, names)
