"""Fine-tuning on Tinker, supervised or by preferences: our process composes the batches and takes
the steps, Tinker's machines compute.

All that a run has come to is in one file of its folder, ``tinker.jsonl``: what it is, every step's
loss, every checkpoint as soon as it is saved, the final weights. Whoever reads that file can go on
with the run: from the last checkpoint, with the optimizer's state, at the next batch. So an outage,
a restart of the service or a killed process costs the steps since then, and the same loss comes
out.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mosweep.backends.tinker.objectives import MEASURES
from mosweep.backends.tinker.recipe import TinkerRecipe
from mosweep.backends.tinker.service import Service, address, recommended_renderer
from mosweep.backends.tinker.steps import Journal, Training
from mosweep.backends.training import RunStatus
from mosweep.core import fingerprint, schema
from mosweep.core.errors import StageError
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.datasets.preferences import preference

if TYPE_CHECKING:
    from tinker import ServiceClient

__all__ = ["JOURNAL", "Part", "TinkerTrainingBackend", "TinkerTrainingRun"]

JOURNAL = "tinker.jsonl"


@dataclass
class TinkerTrainingRun:
    """A run in ``folder``. Training goes on while this process lives and somebody has it; ``load``
    takes it up in another process.
    """

    id: str
    folder: Path
    service: Service
    status: RunStatus = "running"
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self.folder / JOURNAL)

    @property
    def spec(self) -> dict[str, Any]:
        """What the run is: model, renderer, recipe and so on."""
        return next(event for event in self._journal.events() if event["event"] == "run")

    @property
    def weights(self) -> str | None:
        """Tinker's path of the final weights, to sample from."""
        return next(
            (event["path"] for event in self._journal.events() if event["event"] == "weights"), None
        )

    @property
    def state(self) -> str | None:
        """Tinker's path of the final weights with the optimizer's state, to train on from, if that
        was asked for.
        """
        return next(
            (event["path"] for event in self._journal.events() if event["event"] == "state"), None
        )

    @property
    def model_id(self) -> str | None:
        """``tinker/MODEL@WEIGHTS`` once the run has succeeded, which is its name with Inspect,
        too.
        """
        weights = self.weights if self.status == "succeeded" else None
        return weights and f"tinker/{self.spec['model']}@{weights}"

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Step and loss; of a step that was taken again, the last."""
        return self._measured("loss")

    @property
    def measures(self) -> dict[str, list[tuple[int, float]]]:
        """What the steps told beside their loss, by name; nothing if they are supervised."""
        return {name: found for name in MEASURES if (found := self._measured(name))}

    def _measured(self, name: str) -> list[tuple[int, float]]:
        steps = [
            event for event in self._journal.events() if event["event"] == "step" and name in event
        ]
        return sorted({step["step"]: step[name] for step in steps}.items())

    @property
    def tokens(self) -> int:
        """Tokens trained on, those of steps that were taken again included: what is to be paid
        for.
        """
        return self._counted("tokens")

    @property
    def forward_tokens(self) -> int:
        """Tokens that preferences took forward passes of: once for the reference, and in every step
        before its gradient is known.
        """
        return self._counted("forward")

    @property
    def sampled_tokens(self) -> int:
        """Tokens sampled: one with each answer that the reference is asked about, which is how
        Tinker is asked.
        """
        return self._counted("sampled")

    def _counted(self, name: str) -> int:
        return sum(event.get(name, 0) for event in self._journal.events())

    @property
    def jobs(self) -> list[str]:
        """Tinker's training runs that this one consisted of: one, and one more each time it was
        taken up again.
        """
        return [event["id"] for event in self._journal.events() if event["event"] == "job"]

    @property
    def resumed_at_step(self) -> int:
        """From which step the run was last taken up; 0 if it never was."""
        return int(
            next(
                (
                    event["step"]
                    for event in reversed(self._journal.events())
                    if event["event"] == "job"
                ),
                0,
            )
        )

    async def refresh(self) -> RunStatus:
        """Whether it still trains."""
        if self.status == "running" and self._task is not None and self._task.done():
            self.status = (
                "cancelled"
                if self._task.cancelled()
                else "failed"
                if self._task.exception()
                else "succeeded"
            )
        return self.status

    async def wait(self) -> str:
        """Wait for the end of training; ``model_id``. Whoever gives up waiting ends the run in this
        process.
        """
        if self._task is not None:
            try:
                await self._task
            finally:
                await self.refresh()
        if self.model_id is None:
            raise StageError(f"the Tinker run {self.id} was {self.status}")
        return self.model_id

    async def cancel(self) -> None:
        """Stop training. The checkpoints stay until Tinker deletes them."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.refresh()

    async def save(self, path: Path) -> None:
        """Write where the run is."""
        path.write_text(
            json.dumps({"id": self.id, "folder": str(self.folder), "url": self.service.url}) + "\n"
        )

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The run that ``save`` wrote; its process being dead, it goes on from its last
        checkpoint.
        """
        data = json.loads(path.read_text())
        run = cls(data["id"], Path(data["folder"]), Service(data["url"]))
        run.start()
        return run

    def start(self) -> None:
        """Go on with the run, unless it has ended."""
        if self.weights is not None:
            self.status = "succeeded"
        else:
            self._task = asyncio.create_task(
                Training(self.spec, self.folder, self._journal, self.service).run(),
                name=f"train {self.id}",
            )


@dataclass(frozen=True)
class Part:
    """Steps of a longer run: their learning rates, and Tinker's path of the state to go on from
    (``None``: the base model). Examples are taken as they come, and the state at the end is saved
    for as long as checkpoints stay.
    """

    rates: Sequence[float]
    start: str | None


@dataclass(frozen=True)
class TinkerTrainingBackend:
    """Fine-tunes on Tinker by ``recipe``, in ``folder``: a recipe with ``beta`` on preferences. The
    key is read from the environment when a run starts.

    ``renderer``: tinker-cookbook's, by default the one it recommends for the model. ``tokenizer``:
    a folder, by default the model's own from the hub. ``base_url``: another server than Tinker's
    (or ``TINKER_BASE_URL``). ``client``: a ``ServiceClient`` to use.

    ``previous``: the folder of an earlier attempt at the very same run; what it came to is gone on
    with, unless one of the Tinker training runs in ``spent`` is part of that. ``patience_s``: how
    long Tinker may be silent.

    ``part``: take these steps of a longer run.
    """

    folder: str | Path
    recipe: TinkerRecipe
    renderer: str | None = None
    tokenizer: str | Path | None = None
    base_url: str | None = None
    client: ServiceClient | None = None
    previous: str | Path | None = None
    spent: frozenset[str] = frozenset()
    patience_s: float = 900.0
    part: Part | None = None

    async def train(
        self,
        dataset: JSONLDataset | str | Path,
        model: str,
        hyperparameters: Mapping[str, Any] | None = None,
        suffix: str | None = None,
    ) -> TinkerTrainingRun:
        """Start fine-tuning ``model``, by its name with Tinker. ``hyperparameters`` are laid over
        the recipe.
        """
        if not isinstance(dataset, JSONLDataset):
            dataset = await JSONLDataset.load(dataset)
        recipe = schema.build(
            TinkerRecipe, {**schema.plain(self.recipe), **(hyperparameters or {})}, "tinker"
        )
        if recipe.beta is not None:
            for number, row in enumerate(dataset, 1):
                preference(number, row)
        folder = Path(self.folder).resolve()
        spec = {
            "model": model,
            "renderer": self.renderer or recommended_renderer(model),
            "recipe": schema.plain(recipe),
            "data": dataset.digest,
            "part": {"rates": list(self.part.rates), "start": self.part.start}
            if self.part
            else None,
        }
        identity = fingerprint.fingerprint({**spec, "recipe": recipe})
        run_id = f"{suffix or 'tinker'}-{secrets.token_hex(4)}"
        about = {
            "event": "run",
            "id": run_id,
            "identity": identity,
            "tokenizer": str(self.tokenizer) if self.tokenizer else None,
            **spec,
        }
        # first of all: a folder with anything in it has all there is
        Journal(folder / JOURNAL).begin([about, *self._carried(identity)])
        await dataset.save(folder / "train.jsonl")
        run = TinkerTrainingRun(
            run_id, folder, Service(address(self.base_url), self.patience_s, self.client)
        )
        run.start()
        return run

    def _carried(self, identity: str) -> list[dict[str, Any]]:
        """What the earlier attempt came to, if it was at the very same run."""
        if self.previous is None:
            return []
        events = Journal(Path(self.previous) / JOURNAL).events()
        same = bool(events) and events[0].get("identity") == identity
        served = any(event["event"] == "job" and event["id"] in self.spent for event in events)
        return events[1:] if same and not served else []
