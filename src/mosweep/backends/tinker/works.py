"""The work of a stage on Tinker: a fine-tune, or a round of a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mosweep.backends.tinker.recipe import TinkerRecipe
from mosweep.core.errors import ConfigError, choices
from mosweep.core.facts import HostedAccess, ModelFacts, Usage
from mosweep.core.fingerprint import unkeyed
from mosweep.core.work import FINETUNE, ROUND, Artifact, Context, Kind, RemoteWork, Traits
from mosweep.cost import prices
from mosweep.stages.data import TRAIN, data_folder, dataset_ref, training_content
from mosweep.stages.loop.backend import Round, chosen_examples
from mosweep.stages.model import ModelSource, folder_of

if TYPE_CHECKING:
    from mosweep.backends.tinker.training import Part
    from mosweep.datasets.jsonl import JSONLDataset


#: The top-level key of native settings.
SECTION = "tinker"

__all__ = ["TinkerFinetune", "TinkerRound"]


_REQUIRES = {"tinker": "tinker", "tinker_cookbook": "tinker", "transformers": "local"}


@dataclass(frozen=True)
class _TinkerWork(RemoteWork):
    """The base class of works on Tinker.

    ``model`` is the model's name at Tinker. ``source`` is the model that provides the tokenizer, if
    that is not the hub's.
    """

    model: str
    renderer: str
    recipe: TinkerRecipe
    source: ModelSource | None
    base_url: str | None = field(metadata=unkeyed)
    max_concurrent: int = field(metadata=unkeyed)
    patience_min: float = field(metadata=unkeyed)

    version: ClassVar[int] = 1
    provider: ClassVar[str] = "tinker"

    def reads(self, role: str, artifact: Artifact) -> Any:
        """Of the data set, only what is trained on."""
        return training_content(artifact) if role == "data" else artifact.digest

    @property
    def traits(self) -> Traits:
        """Waits for Tinker."""
        return Traits(requires=_REQUIRES, provider=self.provider, remote=self)

    @classmethod
    def check_access(cls, works: Sequence[_TinkerWork]) -> None:
        """Request each server's models once.

        Raises ``UserError`` for a missing or wrong API key, and ``ConfigError`` for a model that
        the server does not offer.
        """
        from mosweep.backends.tinker.service import address, check_renderer, supported_models

        offered = {url: supported_models(url) for url in {address(work.base_url) for work in works}}
        for model, url in {(work.model, address(work.base_url)) for work in works}:
            if model not in offered[url]:
                raise ConfigError(
                    "model.tinker",
                    model,
                    f"Tinker at {url} does not offer it; {choices(model, offered[url])}",
                )
        for renderer in {work.renderer for work in works}:
            check_renderer(renderer)

    async def _train(
        self, context: Context, dataset: JSONLDataset | Path, part: Part | None
    ) -> dict[str, Any]:
        """Train, or resume a killed attempt, and return the facts of a fine-tune.

        Writes ``tinker.jsonl``, the journal of the run.
        """
        from mosweep.backends.tinker.training import TinkerTrainingBackend

        data = context.inputs["data"]
        local = "model" in context.inputs or (
            self.source is not None and self.source.path is not None
        )
        backend = TinkerTrainingBackend(
            context.out,
            self.recipe,
            self.renderer,
            tokenizer=folder_of(context, self.source) if local else None,
            base_url=self.base_url,
            previous=context.previous,
            spent=context.spent,
            patience_s=60 * self.patience_min,
            part=part,
        )
        run = await backend.train(dataset, self.model, suffix=context.key[:12])
        model_id = await run.wait()
        (context.out / "train.jsonl").unlink()
        losses = run.losses
        used = Usage("tinker", self.model, run.tokens, run.forward_tokens, run.sampled_tokens)
        facts = ModelFacts(
            model_id=model_id,
            access=HostedAccess(
                self.provider,
                model_id.removeprefix(f"{self.provider}/"),
                base_url=self.base_url,
                options={"renderer": self.renderer},
                base_tokenizer=local,
            ),
            dataset=dataset_ref(data),
            steps=len(losses),
            final_loss=losses[-1][1],
            loss=[list(point) for point in losses],
            curves={
                name: [list(point) for point in points] for name, points in run.measures.items()
            },
            remote_job=" ".join(run.jobs),
            usage=prices.facts(used),
            more={
                "resumed_at_step": run.resumed_at_step,
                **({"state": run.state} if run.state else {}),
            },
        )
        return facts.to_json()


@dataclass(frozen=True)
class TinkerFinetune(_TinkerWork):
    """One fine-tune on Tinker."""

    kind: ClassVar[Kind] = FINETUNE

    def expected_usage(self, tokens: int) -> Usage:
        """``tokens · epochs`` trained tokens, because every epoch uses all data.

        With preferences, ``2 · tokens · epochs`` are trained and ``2 · tokens · (epochs + 1)`` are
        read. The factor 2 assumes two equally long answers to each prompt. Tokens are read once
        per epoch for the loss, and once for the reference.
        """
        epochs = self.recipe.epochs
        if self.recipe.beta is None:
            return Usage(self.provider, self.model, train_tokens=tokens * epochs)
        return Usage(self.provider, self.model, 2 * tokens * epochs, 2 * tokens * (epochs + 1))

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Fine-tune. Writes ``tinker.jsonl``, the journal of the run."""
        data = context.inputs["data"]
        return await self._train(context, data_folder(data) / TRAIN, None)


@dataclass(frozen=True)
class TinkerRound(_TinkerWork):
    """A round of a loop: ``plan.steps`` optimizer steps.

    It resumes from the state that the previous round saved at Tinker.
    """

    plan: Round

    kind: ClassVar[Kind] = ROUND

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Train the round. Writes ``tinker.jsonl``, and saves the next round's state at Tinker."""
        from mosweep.backends.tinker.training import Part

        data, previous, plan = context.inputs["data"], context.inputs.get("previous"), self.plan
        file, count = (
            data_folder(data) / TRAIN,
            plan.steps * self.recipe.batch_size,
        )
        examples, about = await chosen_examples(context, plan, file, count, self.recipe.seed)
        facts = await self._train(
            context,
            examples,
            Part(tuple(plan.rates), str(previous.facts["state"]) if previous else None),
        )
        return {
            **facts,
            "round": plan.number,
            "lr": {"peak": plan.schedule.peak, "first": plan.rates[0], "last": plan.rates[-1]},
            "loss": _shifted(facts["loss"], plan.before),
            **(
                {
                    "curves": {
                        name: _shifted(points, plan.before)
                        for name, points in facts["curves"].items()
                    }
                }
                if "curves" in facts
                else {}
            ),
            "data": about,
        }


def _shifted(points: Sequence[Sequence[float]], by: int) -> list[list[float]]:
    return [[by + step, value] for step, value in points]
