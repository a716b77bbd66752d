"""Fine-tuning on Tinker, supervised or by preferences: our process composes the batches and takes the steps, Tinker's machines compute.

All that a run has come to is in one file of its folder, ``tinker.jsonl``: what it is, every step's loss, every checkpoint as soon as it
is saved, the final weights. Whoever reads that file can go on with the run: from the last checkpoint, with the optimizer's state, at the
next batch. So an outage, a restart of the service or a killed process costs the steps since then, and the same loss comes out.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mosweep.core import fingerprint, schema
from mosweep.core.errors import MissingExtra, StageError
from mosweep.datasets.jsonl import JSONLDataset
from mosweep.datasets.preferences import preference
from mosweep.models.tinker import Service, address, hopeless, load_renderer, one_line, recommended_renderer
from mosweep.training.base import RunStatus
from mosweep.training.tinker_data import batches, render, render_pairs
from mosweep.training.tinker_objectives import MEASURES, Copying, Objective, Preferring
from mosweep.training.tinker_recipe import TinkerRecipe

if TYPE_CHECKING:
    from tinker import AdamParams, ServiceClient, TrainingClient

__all__ = ["JOURNAL", "Part", "TinkerTrainingBackend", "TinkerTrainingRun"]

JOURNAL = "tinker.jsonl"
#: Steps under way before the first one's result is waited for.
AHEAD = 3
#: Times in a row that a run is taken up again without having got to another checkpoint.
TRIES = 4


@dataclass(frozen=True)
class _Journal:
    """The run's file: one event a line, a line that a kill has cut short is none."""

    path: Path

    def events(self) -> list[dict[str, Any]]:
        """Everything that has happened, oldest first."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [event for event in found if isinstance(event, dict) and "event" in event]

    def note(self, event: str, **about: Any) -> None:
        """Add an event; it is on disk when this returns."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **about}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def begin(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Make the file, with these events, all at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.parent.with_name(f".{self.path.parent.name}.{os.getpid()}")  # in the folder it would look like a leftover
        temporary.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
        temporary.replace(self.path)


@dataclass
class TinkerTrainingRun:
    """A run in ``folder``. Training goes on while this process lives and somebody has it; ``load`` takes it up in another process."""

    id: str
    folder: Path
    service: Service
    status: RunStatus = "running"
    _task: asyncio.Task[None] | None = field(default=None, repr=False)

    @cached_property
    def _journal(self) -> _Journal:
        return _Journal(self.folder / JOURNAL)

    @property
    def spec(self) -> dict[str, Any]:
        """What the run is: model, renderer, recipe and so on."""
        return next(event for event in self._journal.events() if event["event"] == "run")

    @property
    def weights(self) -> str | None:
        """Tinker's path of the final weights, to sample from."""
        return next((event["path"] for event in self._journal.events() if event["event"] == "weights"), None)

    @property
    def state(self) -> str | None:
        """Tinker's path of the final weights with the optimizer's state, to train on from, if that was asked for."""
        return next((event["path"] for event in self._journal.events() if event["event"] == "state"), None)

    @property
    def model_id(self) -> str | None:
        """``tinker/MODEL@WEIGHTS`` once the run has succeeded, which is its name with Inspect, too."""
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
        steps = [event for event in self._journal.events() if event["event"] == "step" and name in event]
        return sorted({step["step"]: step[name] for step in steps}.items())

    @property
    def tokens(self) -> int:
        """Tokens trained on, those of steps that were taken again included: what is to be paid for."""
        return self._counted("tokens")

    @property
    def forward_tokens(self) -> int:
        """Tokens that preferences took forward passes of: once for the reference, and in every step before its gradient is known."""
        return self._counted("forward")

    @property
    def sampled_tokens(self) -> int:
        """Tokens sampled: one with each answer that the reference is asked about, which is how Tinker is asked."""
        return self._counted("sampled")

    def _counted(self, name: str) -> int:
        return sum(event.get(name, 0) for event in self._journal.events())

    @property
    def jobs(self) -> list[str]:
        """Tinker's training runs that this one consisted of: one, and one more each time it was taken up again."""
        return [event["id"] for event in self._journal.events() if event["event"] == "job"]

    @property
    def resumed_at_step(self) -> int:
        """From which step the run was last taken up; 0 if it never was."""
        return int(next((event["step"] for event in reversed(self._journal.events()) if event["event"] == "job"), 0))

    async def refresh(self) -> RunStatus:
        """Whether it still trains."""
        if self.status == "running" and self._task is not None and self._task.done():
            self.status = "cancelled" if self._task.cancelled() else "failed" if self._task.exception() else "succeeded"
        return self.status

    async def wait(self) -> str:
        """Wait for the end of training; ``model_id``. Whoever gives up waiting ends the run in this process."""
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
        path.write_text(json.dumps({"id": self.id, "folder": str(self.folder), "url": self.service.url}) + "\n")

    @classmethod
    async def load(cls, path: Path) -> Self:
        """The run that ``save`` wrote; its process being dead, it goes on from its last checkpoint."""
        data = json.loads(path.read_text())
        run = cls(data["id"], Path(data["folder"]), Service(data["url"]))
        run.start()
        return run

    def start(self) -> None:
        """Go on with the run, unless it has ended."""
        if self.weights is not None:
            self.status = "succeeded"
        else:
            self._task = asyncio.create_task(_Training(self.spec, self.folder, self._journal, self.service).run(), name=f"train {self.id}")


@dataclass(frozen=True)
class Part:
    """Steps of a longer run: their learning rates, and Tinker's path of the state to go on from (``None``: the base model). Examples are
    taken as they come, and the state at the end is saved for as long as checkpoints stay.
    """

    rates: Sequence[float]
    start: str | None


@dataclass(frozen=True)
class TinkerTrainingBackend:
    """Fine-tunes on Tinker by ``recipe``, in ``folder``: a recipe with ``beta`` on preferences. The key is read from the environment when a
    run starts.

    ``renderer``: tinker-cookbook's, by default the one it recommends for the model. ``tokenizer``: a folder, by default the model's own
    from the hub. ``base_url``: another server than Tinker's (or ``TINKER_BASE_URL``). ``client``: a ``ServiceClient`` to use.

    ``previous``: the folder of an earlier attempt at the very same run; what it came to is gone on with, unless one of the Tinker training
    runs in ``spent`` is part of that. ``patience_s``: how long Tinker may be silent.

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
        """Start fine-tuning ``model``, by its name with Tinker. ``hyperparameters`` are laid over the recipe."""
        if not isinstance(dataset, JSONLDataset):
            dataset = await JSONLDataset.load(dataset)
        recipe = schema.build(TinkerRecipe, {**schema.plain(self.recipe), **(hyperparameters or {})}, "tinker")
        if recipe.beta is not None:
            for number, row in enumerate(dataset, 1):
                preference(number, row)
        folder = Path(self.folder).resolve()
        spec = {
            "model": model,
            "renderer": self.renderer or recommended_renderer(model),
            "recipe": schema.plain(recipe),
            "data": dataset.digest,
            "part": {"rates": list(self.part.rates), "start": self.part.start} if self.part else None,
        }
        identity = fingerprint.fingerprint({**spec, "recipe": recipe})
        run_id = f"{suffix or 'tinker'}-{secrets.token_hex(4)}"
        about = {"event": "run", "id": run_id, "identity": identity, "tokenizer": str(self.tokenizer) if self.tokenizer else None, **spec}
        _Journal(folder / JOURNAL).begin([about, *self._carried(identity)])  # first of all: a folder with anything in it has all there is
        await dataset.save(folder / "train.jsonl")
        run = TinkerTrainingRun(run_id, folder, Service(address(self.base_url), self.patience_s, self.client))
        run.start()
        return run

    def _carried(self, identity: str) -> list[dict[str, Any]]:
        """What the earlier attempt came to, if it was at the very same run."""
        if self.previous is None:
            return []
        events = _Journal(Path(self.previous) / JOURNAL).events()
        same = bool(events) and events[0].get("identity") == identity
        served = any(event["event"] == "job" and event["id"] in self.spent for event in events)
        return events[1:] if same and not served else []


@dataclass
class _Step:
    """A step under way."""

    number: int
    rows: Sequence[int]
    rate: float
    loss: Awaitable[Any]
    update: Awaitable[Any]
    saved: tuple[str, Awaitable[Any]] | None


@dataclass
class _Training:
    """The work of a run: take it up wherever it is, until it has its final weights."""

    spec: Mapping[str, Any]
    folder: Path
    journal: _Journal
    service: Service
    checkpoints: list[tuple[int, str]] = field(default_factory=list)

    async def run(self) -> None:
        try:
            import tinker  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtra("tinker", "tinker", "backend=tinker") from error
        objective, plan, rates = await asyncio.to_thread(self.prepare)
        self.checkpoints = [(event["step"], event["path"]) for event in self.journal.events() if event["event"] == "checkpoint"]
        tries, reached = 0, self.reached
        while True:
            try:
                await self.session(objective, plan, rates)
                return
            except Exception as error:
                tries = tries + 1 if self.reached == reached else 1
                reached = self.reached
                if isinstance(error, StageError) or hopeless(error) or tries >= TRIES:
                    raise StageError(f"Tinker, at step {reached} of {len(plan)}: {one_line(error)}") from error
                pause = 2.0 ** (tries - 1)
                print(f"{one_line(error)}; going on from step {reached} in {pause:g} s")
                await asyncio.sleep(pause)

    @property
    def reached(self) -> int:
        """The step of the last checkpoint."""
        return self.checkpoints[-1][0] if self.checkpoints else 0

    @cached_property
    def recipe(self) -> TinkerRecipe:
        return schema.build(TinkerRecipe, self.spec["recipe"], "tinker")

    def prepare(self) -> tuple[Objective, list[list[int]], list[float]]:
        """The data and what is to become of them, which of them each step takes, and each step's learning rate."""
        recipe, part, objective = self.recipe, self.spec["part"], self.objective()
        if part is None:
            steps = recipe.steps(len(objective))
            plan = batches(len(objective), recipe.batch_size, recipe.epochs, recipe.max_steps_per_epoch, recipe.seed)
            return objective, plan, [recipe.rate(step, steps) for step in range(1, steps + 1)]
        size, given = recipe.batch_size, part["rates"]
        if len(objective) < size * len(given):
            raise StageError(f"{len(given)} steps of {size} examples were asked for, and there are {len(objective)}")
        return objective, [list(range(step * size, (step + 1) * size)) for step in range(len(given))], list(given)

    def objective(self) -> Objective:
        """The data, rendered. Preferences know of the reference what earlier attempts have asked."""
        recipe, model = self.recipe, str(self.spec["model"])
        renderer = load_renderer(self.spec["renderer"], model, self.spec["tokenizer"])
        data = JSONLDataset(json.loads(line) for line in (self.folder / "train.jsonl").read_text(encoding="utf-8").split("\n") if line)
        if recipe.beta is None:
            return Copying(render(renderer, data.to_openai_format(), recipe.loss_on, recipe.max_length))
        asked = [pair for event in self.journal.events() if event["event"] == "reference" for pair in event["pairs"]]
        known = {row: (chosen, rejected) for row, chosen, rejected in asked}
        pairs = render_pairs(renderer, data, recipe.loss_on, recipe.max_length)
        return Preferring(pairs, recipe.beta, model, self.service, self.journal.note, known)

    async def session(self, objective: Objective, plan: Sequence[Sequence[int]], rates: Sequence[float]) -> None:
        """Take the steps that are missing and save the weights."""
        client = await self.service.open({"mosweep": str(self.spec["identity"])[:12]})
        how: Any = "errored"
        try:
            await objective.prepare(client, {row for rows in plan for row in rows})
            training, done = await self.take_up(client)
            under_way: deque[_Step] = deque()
            for number in range(done + 1, len(plan) + 1):
                under_way.append(self.step(training, objective, number, len(plan), plan[number - 1], rates[number - 1]))
                if len(under_way) > AHEAD:
                    await self.settle(under_way.popleft(), objective, len(plan))
            while under_way:
                await self.settle(under_way.popleft(), objective, len(plan))
            if self.spec["part"] and not any(event["event"] == "state" for event in self.journal.events()):
                saved = await self.service.wait(training.save_state("final", ttl_seconds=self.ttl_s))
                self.journal.note("state", path=saved.path, expires=time.time() + self.ttl_s)
            weights = await self.service.wait(training.save_weights_for_sampler("final"))
            self.journal.note("weights", path=weights.path)
            print(f"final weights: {weights.path}")
            how = "success"
        except asyncio.CancelledError:
            how = "interrupted"
            raise
        finally:
            await asyncio.shield(self.service.close(client, how))

    @property
    def ttl_s(self) -> int:
        return int(self.recipe.checkpoint_ttl_h * 3600)

    async def take_up(self, client: ServiceClient) -> tuple[TrainingClient, int]:
        """A training client where the run is, and how many steps that is."""
        about, recipe = {"mosweep": str(self.spec["identity"])}, self.recipe
        start = self.spec["part"] and self.spec["part"]["start"]
        while self.checkpoints or start:
            done, path = self.checkpoints[-1] if self.checkpoints else (0, start)
            try:
                training = await self.service.wait(client.create_training_client_from_state_with_optimizer(path, user_metadata=about))
            except Exception as error:
                if not self.checkpoints or not _gone(error):
                    raise
                print(f"the checkpoint of step {done} is gone ({one_line(error)})")
                self.checkpoints.pop()
                continue
            self.took_up(training, done, path)
            return training, done
        training = await self.service.wait(
            client.create_lora_training_client(
                self.spec["model"],
                rank=recipe.rank,
                seed=recipe.seed,
                train_mlp=recipe.train_mlp,
                train_attn=recipe.train_attn,
                train_unembed=recipe.train_unembed,
                user_metadata=about,
            )
        )
        self.took_up(training, 0, None)
        return training, 0

    def took_up(self, training: TrainingClient, done: int, path: str | None) -> None:
        job = str(training.model_id)
        self.journal.note("job", id=job, step=done, start=path)
        print(f"training run {job}, from " + (f"step {done} ({path})" if path else "the base model"))

    def step(self, training: TrainingClient, objective: Objective, number: int, steps: int, rows: Sequence[int], rate: float) -> _Step:
        """Hand in a step and, where one is due, a checkpoint behind it; Tinker takes them in this order."""
        loss = objective.submit(training, rows)
        update = training.optim_step(self.adam(rate))
        saved = None
        if number % self.recipe.save_every == 0 and number < steps:
            saved = f"step-{number:06d}", training.save_state(f"step-{number:06d}", ttl_seconds=self.ttl_s)
        return _Step(number, rows, rate, loss, update, saved)

    def adam(self, rate: float) -> AdamParams:
        from tinker import AdamParams

        recipe = self.recipe
        return AdamParams(
            learning_rate=rate,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            grad_clip_norm=recipe.grad_clip_norm,
        )

    async def settle(self, step: _Step, objective: Objective, steps: int) -> None:
        """Wait for a step, and note what came of it."""
        result = await self.service.wait(step.loss)
        await self.service.wait(step.update)
        measured = objective.measured(step.rows, result)
        self.journal.note("step", step=step.number, **measured, lr=step.rate, **objective.used(step.rows))
        print(f"step {step.number} of {steps}: " + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in measured.items()))
        if step.saved is not None:
            saved = await self.service.wait(step.saved[1])
            self.journal.note("checkpoint", step=step.number, path=saved.path, expires=round(time.time() + self.ttl_s))
            self.checkpoints.append((step.number, saved.path))


def _gone(error: Exception) -> bool:
    """Whether a checkpoint is not there any more."""
    import tinker

    return isinstance(error, tinker.NotFoundError) or "not found" in str(error).lower()
