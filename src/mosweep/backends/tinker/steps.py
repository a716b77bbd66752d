"""The steps of a run on Tinker, and the journal that records its progress."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.backends.tinker.data import batches, render, render_pairs
from mosweep.backends.tinker.objectives import Objective, PreferenceObjective, SupervisedObjective
from mosweep.backends.tinker.recipe import TinkerRecipe
from mosweep.backends.tinker.service import Service, load_renderer, one_line, permanent
from mosweep.core import schema
from mosweep.core.errors import MissingExtra, StageError
from mosweep.datasets.jsonl import JSONLDataset

if TYPE_CHECKING:
    from tinker import AdamParams, ServiceClient, TrainingClient

__all__ = ["Journal", "Training"]

#: Steps that are submitted ahead of the step whose result is awaited.
MAX_PENDING = 3
#: Consecutive attempts that may fail before a run reaches its next checkpoint.
MAX_ATTEMPTS = 4


@dataclass(frozen=True)
class Journal:
    """The run's journal: one event per line. Incomplete lines of a killed writer are ignored."""

    path: Path

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        values = []
        for line in (
            self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ()
        ):
            try:
                values.append(json.loads(line))
            except ValueError:
                continue
        return [event for event in values if isinstance(event, dict) and "event" in event]

    def note(self, event: str, **about: Any) -> None:
        """Append an event. It is on disk when this returns."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3), **about}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def begin(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Create the file with these events, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not in the folder, where it would look like a result.
        temporary = self.path.parent.with_name(f".{self.path.parent.name}.{os.getpid()}")
        temporary.write_text(
            "".join(json.dumps(event) + "\n" for event in events), encoding="utf-8"
        )
        temporary.replace(self.path)


@dataclass
class _Step:
    """A submitted step without a result."""

    number: int
    rows: Sequence[int]
    rate: float
    loss: Awaitable[Any]
    update: Awaitable[Any]
    saved: tuple[str, Awaitable[Any]] | None


@dataclass
class Training:
    """Trains a run until it has its final weights, resuming from its last checkpoint."""

    spec: Mapping[str, Any]
    folder: Path
    journal: Journal
    service: Service
    checkpoints: list[tuple[int, str]] = field(default_factory=list)

    async def run(self) -> None:
        try:
            import tinker  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtra("tinker", "tinker", "backend=tinker") from error
        objective, plan, rates = await asyncio.to_thread(self.prepare)
        self.checkpoints = [
            (event["step"], event["path"])
            for event in self.journal.events()
            if event["event"] == "checkpoint"
        ]
        attempts, reached = 0, self.reached
        while True:
            try:
                await self.session(objective, plan, rates)
                return
            except Exception as error:
                attempts = attempts + 1 if self.reached == reached else 1
                reached = self.reached
                if isinstance(error, StageError) or permanent(error) or attempts >= MAX_ATTEMPTS:
                    raise StageError(
                        f"Tinker, at step {reached} of {len(plan)}: {one_line(error)}"
                    ) from error
                pause = 2.0 ** (attempts - 1)
                print(f"{one_line(error)}; resuming from step {reached} in {pause:g} s")
                await asyncio.sleep(pause)

    @property
    def reached(self) -> int:
        """The step of the last checkpoint."""
        return self.checkpoints[-1][0] if self.checkpoints else 0

    @cached_property
    def recipe(self) -> TinkerRecipe:
        return schema.build(TinkerRecipe, self.spec["recipe"], "tinker")

    def prepare(self) -> tuple[Objective, list[list[int]], list[float]]:
        """The objective, the rows of each step, and the learning rate of each step."""
        recipe, part, objective = self.recipe, self.spec["part"], self.objective()
        if part is None:
            steps = recipe.steps(len(objective))
            plan = batches(
                len(objective),
                recipe.batch_size,
                recipe.epochs,
                recipe.max_steps_per_epoch,
                recipe.seed,
            )
            return objective, plan, [recipe.rate(step, steps) for step in range(1, steps + 1)]
        size, given = recipe.batch_size, part["rates"]
        if len(objective) < size * len(given):
            raise StageError(
                f"{len(given)} steps of {size} examples need {size * len(given)} examples, but "
                f"there are only {len(objective)}"
            )
        return (
            objective,
            [list(range(step * size, (step + 1) * size)) for step in range(len(given))],
            list(given),
        )

    def objective(self) -> Objective:
        """The objective on the rendered data.

        For preferences, it reuses the reference log-probabilities of earlier attempts.
        """
        recipe, model = self.recipe, str(self.spec["model"])
        renderer = load_renderer(self.spec["renderer"], model, self.spec["tokenizer"])
        data = JSONLDataset(
            json.loads(line)
            for line in (self.folder / "train.jsonl").read_text(encoding="utf-8").split("\n")
            if line
        )
        if recipe.beta is None:
            return SupervisedObjective(
                render(renderer, data.to_openai_format(), recipe.loss_on, recipe.max_length)
            )
        journaled = [
            pair
            for event in self.journal.events()
            if event["event"] == "reference"
            for pair in event["pairs"]
        ]
        known = {row: (chosen, rejected) for row, chosen, rejected in journaled}
        pairs = render_pairs(renderer, data, recipe.loss_on, recipe.max_length)
        return PreferenceObjective(
            pairs, recipe.beta, model, self.service, self.journal.note, known
        )

    async def session(
        self, objective: Objective, plan: Sequence[Sequence[int]], rates: Sequence[float]
    ) -> None:
        """Take the remaining steps and save the weights."""
        client = await self.service.open({"mosweep": str(self.spec["identity"])[:12]})
        outcome: Any = "errored"
        try:
            await objective.prepare(client, {row for rows in plan for row in rows})
            training, done = await self.resume(client)
            pending: deque[_Step] = deque()
            for number in range(done + 1, len(plan) + 1):
                pending.append(
                    self.step(
                        training, objective, number, len(plan), plan[number - 1], rates[number - 1]
                    )
                )
                if len(pending) > MAX_PENDING:
                    await self.finish(pending.popleft(), objective, len(plan))
            while pending:
                await self.finish(pending.popleft(), objective, len(plan))
            if self.spec["part"] and not any(
                event["event"] == "state" for event in self.journal.events()
            ):
                saved = await self.service.wait(
                    training.save_state("final", ttl_seconds=self.ttl_s)
                )
                self.journal.note("state", path=saved.path, expires=time.time() + self.ttl_s)
            weights = await self.service.wait(training.save_weights_for_sampler("final"))
            self.journal.note("weights", path=weights.path)
            print(f"final weights: {weights.path}")
            outcome = "success"
        except asyncio.CancelledError:
            outcome = "interrupted"
            raise
        finally:
            await asyncio.shield(self.service.close(client, outcome))

    @property
    def ttl_s(self) -> int:
        return int(self.recipe.checkpoint_ttl_h * 3600)

    async def resume(self, client: ServiceClient) -> tuple[TrainingClient, int]:
        """A training client in the state of the last checkpoint, and that checkpoint's step."""
        about, recipe = {"mosweep": str(self.spec["identity"])}, self.recipe
        start = self.spec["part"] and self.spec["part"]["start"]
        while self.checkpoints or start:
            done, path = self.checkpoints[-1] if self.checkpoints else (0, start)
            try:
                training = await self.service.wait(
                    client.create_training_client_from_state_with_optimizer(
                        path, user_metadata=about
                    )
                )
            except Exception as error:
                if not self.checkpoints or not _missing(error):
                    raise
                print(f"the checkpoint of step {done} no longer exists ({one_line(error)})")
                self.checkpoints.pop()
                continue
            self.note_job(training, done, path)
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
        self.note_job(training, 0, None)
        return training, 0

    def note_job(self, training: TrainingClient, done: int, path: str | None) -> None:
        job = str(training.model_id)
        self.journal.note("job", id=job, step=done, start=path)
        print(
            f"training run {job}, from " + (f"step {done} ({path})" if path else "the base model")
        )

    def step(
        self,
        training: TrainingClient,
        objective: Objective,
        number: int,
        steps: int,
        rows: Sequence[int],
        rate: float,
    ) -> _Step:
        """Submit a step, followed by a checkpoint if one is due. Tinker preserves the order."""
        loss = objective.submit(training, rows)
        update = training.optim_step(self.adam(rate))
        saved = None
        if number % self.recipe.save_every == 0 and number < steps:
            saved = (
                f"step-{number:06d}",
                training.save_state(f"step-{number:06d}", ttl_seconds=self.ttl_s),
            )
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

    async def finish(self, step: _Step, objective: Objective, steps: int) -> None:
        """Wait for a step and record its results."""
        result = await self.service.wait(step.loss)
        await self.service.wait(step.update)
        measured = objective.measured(step.rows, result)
        self.journal.note(
            "step", step=step.number, **measured, lr=step.rate, **objective.used(step.rows)
        )
        print(
            f"step {step.number} of {steps}: "
            + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in measured.items())
        )
        if step.saved is not None:
            saved = await self.service.wait(step.saved[1])
            self.journal.note(
                "checkpoint",
                step=step.number,
                path=saved.path,
                expires=round(time.time() + self.ttl_s),
            )
            self.checkpoints.append((step.number, saved.path))


def _missing(error: Exception) -> bool:
    """Whether the error says that a checkpoint no longer exists."""
    import tinker

    return isinstance(error, tinker.NotFoundError) or "not found" in str(error).lower()
