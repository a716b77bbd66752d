"""Fine-tuning on Tinker, supervised or on preferences.

This process composes the batches and submits the steps. Tinker computes them.

``tinker.jsonl`` in the run's folder is the journal of the run: its settings, the loss of every
step, every saved checkpoint, and the final weights. Any process can resume the run from the last
checkpoint in the journal, with the optimizer's state and at the next batch. An outage, a restart of
the service or a killed process costs only the steps since that checkpoint. The losses are the same
as without the interruption.
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
    """A run in ``folder``. It trains in a task of this process. ``load`` resumes it in another."""

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
        """The run's definition: model, renderer, recipe and so on."""
        return next(event for event in self._journal.events() if event["event"] == "run")

    @property
    def weights(self) -> str | None:
        """Tinker's path of the final weights, for sampling."""
        return next(
            (event["path"] for event in self._journal.events() if event["event"] == "weights"), None
        )

    @property
    def state(self) -> str | None:
        """Tinker's path of the final weights with the optimizer's state, if the run is a part."""
        return next(
            (event["path"] for event in self._journal.events() if event["event"] == "state"), None
        )

    @property
    def model_id(self) -> str | None:
        """``tinker/MODEL@WEIGHTS`` once the run has succeeded. Inspect uses this name too."""
        weights = self.weights if self.status == "succeeded" else None
        return weights and f"tinker/{self.spec['model']}@{weights}"

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Step and loss. A repeated step has its last loss."""
        return self._measured("loss")

    @property
    def measures(self) -> dict[str, list[tuple[int, float]]]:
        """Other measures of the steps, by name. Empty for supervised runs."""
        return {name: points for name in MEASURES if (points := self._measured(name))}

    def _measured(self, name: str) -> list[tuple[int, float]]:
        steps = [
            event for event in self._journal.events() if event["event"] == "step" and name in event
        ]
        return sorted({step["step"]: step[name] for step in steps}.items())

    @property
    def tokens(self) -> int:
        """Billed trained tokens. Repeated steps count again."""
        return self._counted("tokens")

    @property
    def forward_tokens(self) -> int:
        """Tokens of forward passes for preferences: once for the reference, and in every step."""
        return self._counted("forward")

    @property
    def sampled_tokens(self) -> int:
        """Sampled tokens: one for each answer, because reference requests sample a token."""
        return self._counted("sampled")

    def _counted(self, name: str) -> int:
        return sum(event.get(name, 0) for event in self._journal.events())

    @property
    def jobs(self) -> list[str]:
        """The ids of Tinker's training runs: the first one, and one for each resumption."""
        return [event["id"] for event in self._journal.events() if event["event"] == "job"]

    @property
    def resumed_at_step(self) -> int:
        """The step that the run last resumed from. 0 if it was never resumed."""
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
        """Update the status from the training task."""
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
        """Wait until training ends and return ``model_id``.

        Cancelling the wait stops the run in this process.
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
        """Stop training. Checkpoints remain until they expire."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.refresh()

    async def save(self, path: Path) -> None:
        """Write the run's id, folder and address."""
        path.write_text(
            json.dumps({"id": self.id, "folder": str(self.folder), "url": self.service.url}) + "\n"
        )

    @classmethod
    async def load(cls, path: Path) -> Self:
        """Resume the run that ``save`` wrote from its last checkpoint.

        The process that started it must have ended.
        """
        data = json.loads(path.read_text())
        run = cls(data["id"], Path(data["folder"]), Service(data["url"]))
        run.start()
        return run

    def start(self) -> None:
        """Start or resume training, unless the run has its final weights."""
        if self.weights is not None:
            self.status = "succeeded"
        else:
            self._task = asyncio.create_task(
                Training(self.spec, self.folder, self._journal, self.service).run(),
                name=f"train {self.id}",
            )


@dataclass(frozen=True)
class Part:
    """Some steps of a longer run.

    ``rates`` are their learning rates. ``start`` is Tinker's path of the state to resume from
    (``None``: the base model). The examples are used in order. The final state expires like a
    checkpoint.
    """

    rates: Sequence[float]
    start: str | None


@dataclass(frozen=True)
class TinkerTrainingBackend:
    """Fine-tunes on Tinker with ``recipe``, in ``folder``. With ``beta`` it trains on preferences.

    The API key is read from the environment when a run starts.

    - ``renderer``: a name in tinker-cookbook; by default the one that it recommends for the model
    - ``tokenizer``: a folder; by default the model's tokenizer from the hub
    - ``base_url``: the address of the server; by default ``TINKER_BASE_URL``, else Tinker's own
    - ``client``: a ``ServiceClient`` to use
    - ``previous``: the folder of an earlier attempt at the same run, to resume from
    - ``spent``: ids of Tinker training runs. An earlier attempt with one of them is not resumed.
    - ``patience_s``: seconds that Tinker may be unreachable
    - ``part``: the steps of a longer run to take
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
        """Start fine-tuning ``model``, which is a name at Tinker.

        ``hyperparameters`` override the recipe.
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
        # The journal is written first, so that a folder with any file has the whole journal.
        Journal(folder / JOURNAL).begin([about, *self._resumable(identity)])
        await dataset.save(folder / "train.jsonl")
        run = TinkerTrainingRun(
            run_id, folder, Service(address(self.base_url), self.patience_s, self.client)
        )
        run.start()
        return run

    def _resumable(self, identity: str) -> list[dict[str, Any]]:
        """The events of the earlier attempt, if it was the same run."""
        if self.previous is None:
            return []
        events = Journal(Path(self.previous) / JOURNAL).events()
        same = bool(events) and events[0].get("identity") == identity
        used = any(event["event"] == "job" and event["id"] in self.spent for event in events)
        return events[1:] if same and not used else []
