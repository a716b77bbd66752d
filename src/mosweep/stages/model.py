"""Base models: generated ones are a stage of their own, others are a source that stages carry
along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from mosweep.config.groups import Model
from mosweep.core import fingerprint
from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.fingerprint import unkeyed
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
        """Leaves the Hugging Face folder ``model``."""
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
    """A base model that is there already: a local folder (known by its content), a hub id and
    revision, or an Inspect model name.
    """

    digest: str | None = None
    hub: str | None = None
    revision: str | None = None
    inspect: str | None = None
    path: str | None = field(default=None, metadata=unkeyed)

    def folder(self) -> Path:
        """The local folder, downloaded from the hub if need be (weights and tokenizer in Hugging
        Face's layout).
        """
        if self.path is not None:
            return Path(self.path)
        if self.hub is None:
            raise ConfigError(
                "model.path",
                None,
                f"this stage needs the model's weights; {self.inspect} is reached through its "
                "API only",
            )
        try:
            from huggingface_hub import snapshot_download
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "huggingface-hub", "local", f"fetching the model {self.hub}"
            ) from error
        return Path(snapshot_download(self.hub, revision=self.revision))


def base_model(trial: TrialConfig) -> tuple[Stage | None, ModelSource | None]:
    """The stage that makes the trial's base model, or else its source."""
    model = trial.config.model
    if model.generate is not None:
        return Stage(
            "model",
            GenerateModel(model.generate, model.generate_seed),
            resources=trial.resources("model", computes=False),
        ), None
    return None, _source(model, trial.config.model_dir)


def folder_of(context: Context, source: ModelSource | None) -> Path:
    """Where the base model's files are for a running stage."""
    made = context.inputs.get("model")
    if made is not None:
        return made.folder / str(made.facts["folder"])
    assert source is not None
    return source.folder()


def _source(model: Model, model_dir: str | None) -> ModelSource:
    if model.inspect:
        return ModelSource(inspect=model.inspect)
    if model.hub:
        return ModelSource(hub=model.hub, revision=model.revision)
    given = model.path or (model.name if model_dir else None)
    if given is None:
        raise ConfigError("model", model.name, "has no source: give generate, path, hub or inspect")
    places = [Path(model_dir) / given] if model_dir else []
    places.append(Path(given))
    for place in places:
        if (place / "config.json").exists():
            return ModelSource(digest=_digest(place.resolve()), path=str(place.resolve()))
    raise ConfigError(
        "model.path",
        given,
        "no model folder (one with a config.json) at "
        f"{' or '.join(str(p.absolute()) for p in places)}",
    )


@cache
def _digest(folder: Path) -> str:
    names = [
        path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    ]
    return fingerprint.digest_tree(folder, names)
