"""The work of a stage on torchtune: a fine-tune, or a round of a loop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mosweep.core.facts import AdapterAccess, ModelFacts
from mosweep.core.fingerprint import unkeyed
from mosweep.core.work import FINETUNE, ROUND, Artifact, Context, Kind, Traits, Work
from mosweep.stages.data import TRAIN, data_folder, dataset_ref, training_content
from mosweep.stages.loop.backend import STATE, Round, chosen_examples
from mosweep.stages.model import ModelSource, folder_of

if TYPE_CHECKING:
    from mosweep.backends.torchtune.run import TorchtuneResult
    from mosweep.datasets.jsonl import JSONLDataset


#: The top-level key of native settings.
SECTION = "torchtune"

__all__ = ["TorchtuneFinetune", "TorchtuneRound"]


_THIS_INTERPRETER = Traits(requires=dict.fromkeys(("torchtune", "torch", "torchao"), "torchtune"))
_OTHER_INTERPRETER = Traits()


@dataclass(frozen=True)
class _TorchtuneWork(Work):
    """The base class of works on torchtune.

    ``config`` is the native configuration, reduced to what defines the result.
    """

    config: Mapping[str, Any]
    recipe: str
    source: ModelSource | None
    model: str = field(metadata=unkeyed)
    python: str = field(metadata=unkeyed)
    device: str | None = field(metadata=unkeyed)
    environment: Mapping[str, str] = field(metadata=unkeyed)

    version: ClassVar[int] = 2

    def reads(self, role: str, artifact: Artifact) -> Any:
        """Of the data set, only what is trained on."""
        return training_content(artifact) if role == "data" else artifact.digest

    @property
    def traits(self) -> Traits:
        """Requires torchtune only if this process's interpreter trains."""
        return _THIS_INTERPRETER if self.python == sys.executable else _OTHER_INTERPRETER

    async def _train(
        self, context: Context, dataset: JSONLDataset | Path, **options: Any
    ) -> tuple[TorchtuneResult, dict[str, Any]]:
        """Train in ``context.out`` and return the measurements and the facts of a fine-tune.

        ``options`` are fields of the training backend.
        """
        from mosweep.backends.torchtune.training import TorchtuneTrainingBackend

        data = context.inputs["data"]
        backend = TorchtuneTrainingBackend(
            self.config,
            context.out,
            self.python,
            self.recipe,
            self.environment,
            self.device,
            detached=False,
            processes=context.resources.gpus or 1,
            nodes=context.resources.nodes or 1,
            **options,
        )
        run = await backend.train(dataset, folder_of(context, self.source), suffix=context.key[:12])
        await run.wait()
        result = run.result()
        shutil.rmtree(context.out / "run")  # only for attaching to a running process
        facts = ModelFacts(
            model_id=f"torchtune/{self.model}@{context.key[:12]}",
            access=AdapterAccess("adapter"),
            dataset=dataset_ref(data),
            steps=result.steps,
            final_loss=result.final_loss,
            loss=[list(point) for point in result.losses],
            seconds=result.seconds,
            train_seconds=result.train_seconds,
            device=result.device,
            more={
                "dtype": result.dtype,
                "world_size": result.world_size,
                **({"warning": result.warning} if result.warning else {}),
            },
        )
        return result, facts.to_json()


@dataclass(frozen=True)
class TorchtuneFinetune(_TorchtuneWork):
    """One run of a torchtune recipe."""

    merged: bool

    kind: ClassVar[Kind] = FINETUNE

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Fine-tune, or resume a killed attempt.

        Writes ``adapter``, optionally ``merged``, the native config and the losses.
        """
        data = context.inputs["data"]
        file = data_folder(data) / TRAIN
        result, facts = await self._train(
            context, file, merged=self.merged, previous=context.previous
        )
        return {**facts, "resumed_at_step": result.resumed_at_step}


@dataclass(frozen=True)
class TorchtuneRound(_TorchtuneWork):
    """A round of a loop: ``plan.steps`` optimizer steps of a torchtune recipe.

    ``seed`` determines the order of the examples.
    """

    plan: Round
    seed: int

    kind: ClassVar[Kind] = ROUND

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Train the round.

        Writes ``adapter``, ``state`` for the next round, the native config and the losses.
        """
        from mosweep.backends.torchtune.training import Part

        data, previous, plan = context.inputs["data"], context.inputs.get("previous"), self.plan
        count = plan.steps * self.config["batch_size"] * self.config["gradient_accumulation_steps"]
        examples, about = await chosen_examples(
            context, plan, data_folder(data) / TRAIN, count, self.seed
        )
        part = Part(tuple(plan.rates), previous.folder / STATE if previous else None)
        result, facts = await self._train(context, examples, part=part)
        return {
            **facts,
            "round": plan.number,
            "lr": {"peak": plan.schedule.peak, "first": plan.rates[0], "last": plan.rates[-1]},
            "loss": [[plan.before + step, loss] for step, loss in result.losses],
            "data": about,
        }
