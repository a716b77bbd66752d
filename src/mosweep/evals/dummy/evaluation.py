"""``eval=dummy``: scores drawn around a known mean, marked ``dummy`` wherever they appear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mosweep.core.checks import Check
from mosweep.core.fingerprint import unkeyed
from mosweep.core.schema import between
from mosweep.core.types import Stage
from mosweep.core.work import EVAL, Context, Kind, Traits, Work
from mosweep.evals.dummy.backend import SCORE, draw, mean_and_stderr
from mosweep.evals.evaluation import Evaluation
from mosweep.stages.base import TrialConfig

__all__ = ["DummyEval", "DummyEvaluation"]

#: Mean score of a model whose facts give none, such as the base model.
BASELINE = 0.5
#: Standard deviation between items if the backend sets none.
ITEM_SD = 0.1


@dataclass(frozen=True, slots=True)
class DummyEval(Work):
    """Simulates an evaluation on ``items`` items of ``task``."""

    model: str
    task: str
    items: int
    options: Mapping[str, Any]
    item_sd: float

    kind: ClassVar[Kind] = EVAL
    version: ClassVar[int] = 1
    traits: ClassVar[Traits] = Traits(silent=True, immediate=True)

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Draw the scores of the items. Leaves ``samples.jsonl``, like a real evaluation."""
        tuned = context.inputs.get("model")
        mean = tuned.facts.get("mean", BASELINE) if tuned else BASELINE  # a real fine-tune has none
        model_id = tuned.facts["model_id"] if tuned else f"dummy/{self.model}"
        scores = draw(context.key, self.task, self.items, mean, self.item_sd)
        lines = [
            f'{{"id":{item},"epoch":1,"scores":{{"{SCORE}":{score}}}}}\n'
            for item, score in enumerate(scores, 1)
        ]
        context.out.mkdir(parents=True)
        (context.out / "samples.jsonl").write_text("".join(lines))
        return {
            "dummy": True,
            "task": self.task,
            "model": self.model,
            "model_id": model_id,
            "metrics": mean_and_stderr(scores),
            "n": self.items,
        }


@dataclass(frozen=True)
class DummyEvaluation(Evaluation):
    """The group ``eval=dummy``. ``like`` names the evaluator that it imitates."""

    stands_in: ClassVar[bool] = True

    tasks: Sequence[str] | None = field(default=None, metadata=unkeyed)
    """Evaluation tasks by name. By default the trial's task."""
    items: int = field(default=100, metadata=between(ge=1))
    """The number of items in a simulated evaluation."""
    like: str | None = field(default=None, metadata=unkeyed)
    """The section of the evaluator that it imitates."""

    @classmethod
    def checks(cls) -> Iterable[Check]:
        """Always passes."""
        yield Check("eval=dummy", True, "needs nothing")

    def stages(self, trial: TrialConfig, tuned: Stage | None) -> list[Stage]:
        """One stage per evaluation task."""
        name = trial.config.model.name
        options = dict(trial.native(self.like))
        item_sd = float(trial.native("backend").get("item_sd", ITEM_SD))
        return [
            Stage(
                trial.eval_label(task),
                DummyEval(name, task, self.items, options, item_sd),
                {"model": tuned} if tuned else {},
                trial.resources("eval"),
            )
            for task in trial.eval_tasks(self.tasks)
        ]
