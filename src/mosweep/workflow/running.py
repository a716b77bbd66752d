"""Run workflows: read cached results, and run the other steps, in parallel where possible."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.attempt import attempt, note_failure
from mosweep.core.causes import reason_of
from mosweep.core.errors import UserError, choices
from mosweep.core.store import Attempt, Record, Store
from mosweep.workflow.atoms import Atom
from mosweep.workflow.publishing import POLL_S, default_store, publish
from mosweep.workflow.state import StepState, WorkflowError, WorkflowState
from mosweep.workflow.steps import AtomConstructor, Step, Workflow, call_step, returned_atoms

__all__ = ["run_workflow", "run_workflow_async"]


def run_workflow(
    workflow: Workflow,
    input_atoms: Mapping[str, str | Atom] | None = None,
    config: Any = None,
    *,
    selected_steps: Collection[str] | None = None,
    force: bool | Collection[str] = False,
    store: Store | None = None,
    max_parallel: int | None = None,
    user: str | None = None,
) -> WorkflowState:
    """Run ``workflow`` and return its state. Raises ``WorkflowError`` if a step failed.

    - ``input_atoms``: the inputs of the workflow, by argument name
    - ``config``: an object or mapping with one part per step
    - ``selected_steps``: run only these steps. Results of the others must be in the store.
    - ``force``: run these steps even if their result is in the store (``True``: all selected
      steps). Steps that depend on them run again, too.
    - ``max_parallel``: steps that run at the same time; by default the number of cores plus four
    - ``user``: recorded with the atoms

    It also works inside a running event loop, as in a notebook. There, ``await
    run_workflow_async(…)`` does not block the loop.
    """
    run = run_workflow_async(
        workflow,
        input_atoms,
        config,
        selected_steps=selected_steps,
        force=force,
        store=store,
        max_parallel=max_parallel,
        user=user,
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run)
    threads = ThreadPoolExecutor(1)
    done = threads.submit(asyncio.run, run)
    threads.shutdown(wait=False)  # do not wait if the notebook is interrupted
    return done.result()


async def run_workflow_async(
    workflow: Workflow,
    input_atoms: Mapping[str, str | Atom] | None = None,
    config: Any = None,
    *,
    selected_steps: Collection[str] | None = None,
    force: bool | Collection[str] = False,
    store: Store | None = None,
    max_parallel: int | None = None,
    user: str | None = None,
) -> WorkflowState:
    """``run_workflow`` as a coroutine."""
    run = _Run(
        workflow,
        dict(input_atoms or {}),
        config,
        selected_steps,
        force,
        store or default_store(),
        max_parallel,
        user,
    )
    return await run.run()


class _Run:
    """One run of one workflow."""

    def __init__(
        self,
        workflow: Workflow,
        given: Mapping[str, str | Atom],
        config: Any,
        selected: Collection[str] | None,
        force: bool | Collection[str],
        store: Store,
        max_parallel: int | None,
        user: str | None,
    ) -> None:
        self.workflow, self.store, self.user = workflow, store, user
        if config is None and workflow.config_class is not None:
            config = workflow.config_class()
        for name in (*(selected or ()), *(force if not isinstance(force, bool) else ())):
            workflow.step(name)
        self.selected = (
            set(selected) if selected is not None else {step.name for step in workflow.steps}
        )
        self.forced = (self.selected if force else set()) if isinstance(force, bool) else set(force)
        self.given = {
            name: atom if isinstance(atom, Atom) else Atom.load(atom, store=store)
            for name, atom in given.items()
        }
        self._check_given()
        states = [StepState(step.name, step.configured(config)) for step in workflow.steps]
        ids = {name: atom.id for name, atom in self.given.items()}
        self.state = WorkflowState(
            workflow.name, ids, config, states, datetime.now(UTC), store=store
        )
        self.turns = asyncio.Semaphore(max_parallel or (os.cpu_count() or 1) + 4)
        self.tasks: dict[str, asyncio.Task[bool]] = {}
        self.made: dict[str, dict[str, Atom]] = {}
        self.redone: set[str] = set()

    def _check_given(self) -> None:
        for name, kind in self.workflow.needed().items():
            atom = self.given.get(name)
            if atom is None:
                raise UserError(
                    f"workflow {self.workflow.name!r} needs the atom {name!r} (a {kind}); pass "
                    f"input_atoms={{{name!r}: …}}"
                )
            if atom.type != kind:
                raise UserError(
                    f"workflow {self.workflow.name!r}: {name!r} must be a {kind}, but {atom.id} is "
                    f"a {atom.type}"
                )

    async def run(self) -> WorkflowState:
        for step in self.workflow.steps:
            self.tasks[step.name] = asyncio.create_task(self._step(step))
        try:
            results = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        except asyncio.CancelledError:
            for task in self.tasks.values():
                task.cancel()
            raise
        self.state.time_finished = datetime.now(UTC)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        failed = [state for state in self.state.step_states if state.status == "failed"]
        if failed:
            raise WorkflowError(
                f"workflow {self.workflow.name!r}: step {failed[0].step_name!r} failed: "
                f"{failed[0].error}",
                self.state,
            )
        return self.state

    async def _step(self, step: Step) -> bool:
        """Finish a step, after the steps whose atoms it reads. Returns whether it succeeded."""
        state = self.state[step.name]
        producers = self.workflow.producers(step, self.given)
        done = [await self.tasks[producer.name] for producer in producers]
        if not all(done):
            state.status, state.error = "skipped", "not run: a step that it depends on failed"
            return False
        inputs = self._inputs(step, producers)
        state.input_atoms = {name: atom.id for name, atom in inputs.items()}
        payload = step.payload(state.config, inputs)
        key = fingerprint.fingerprint(payload)
        forced = step.name in self.forced or any(
            producer.name in self.redone for producer in producers
        )
        record = None if forced else self.store.read(key)
        made = self._outputs(record) if record is not None else None
        if record is not None and made is not None:
            state.cached = True
        elif step.name not in self.selected:
            raise UserError(
                f"step {step.name!r} is not selected, and its result is not in the store; select "
                "it, too"
            )
        else:
            async with self.turns:
                made = await self._perform(step, state, payload, key, inputs, forced)
            if made is None:
                return False
            if forced and not state.cached:
                self.redone.add(step.name)
        self.made[step.name] = made
        state.output_atoms = {name: atom.id for name, atom in made.items()}
        state.status = "succeeded"
        return True

    def _inputs(self, step: Step, producers: Sequence[Step]) -> dict[str, Atom]:
        available = dict(self.given)
        for producer in producers:
            available |= self.made[producer.name]
        if step.input_atom_types is None:
            return available
        for name, kind in step.input_atom_types.items():
            if name not in available:
                raise UserError(
                    f"step {step.name!r} reads the atom {name!r}, which no step makes; "
                    f"{choices(name, available)}"
                )
            if available[name].type != kind:
                raise UserError(
                    f"step {step.name!r}: {name!r} must be a {kind}, but {available[name].id} is a "
                    f"{available[name].type}"
                )
        return {name: available[name] for name in step.input_atom_types}

    def _outputs(self, record: Record) -> dict[str, Atom] | None:
        """The atoms of a finished step. ``None`` if one is missing or damaged.

        In that case the step's record is removed, so that it runs again.
        """
        try:
            return {
                name: Atom.load(atom_id, store=self.store)
                for name, atom_id in record.facts["outputs"].items()
            }
        except UserError:
            self.store.forget(record.key)
            return None

    async def _perform(
        self,
        step: Step,
        state: StepState,
        payload: Mapping[str, Any],
        key: str,
        inputs: Mapping[str, Atom],
        forced: bool,
    ) -> dict[str, Atom] | None:
        """Run the step, or wait for the result of a process that runs the same step.

        ``None`` if it failed.
        """
        made: dict[str, Atom] | None = None

        def accept(record: Record) -> bool:
            nonlocal made
            made = None if forced else self._outputs(record)
            return made is not None

        async def run(place: Attempt) -> Mapping[str, Any]:
            nonlocal made
            place.folder.mkdir(parents=True)
            if forced:
                self._forget(key)
            state.status, begun = "running", time.time()
            try:
                made = await self._attempt(step, state, payload, key, inputs, place.folder)
            finally:
                state.runtime_seconds = time.time() - begun
            outputs = {name: f"{atom.type}-{atom.key}" for name, atom in made.items()}
            return {"step": step.name, "outputs": outputs}

        while True:
            ended = await attempt(
                self.store, key, run, payload, {"label": step.name}, accept=accept
            )
            if ended.owner is None:
                break
            await asyncio.sleep(POLL_S)
        if ended.error is None:
            state.cached = ended.seconds is None
            return made
        assert ended.place is not None
        error = ended.error
        state.status = "failed"
        state.error = reason_of(error)
        shutil.rmtree(ended.place.folder / "workspace", ignore_errors=True)
        note_failure(ended.place, error)
        return None

    async def _attempt(
        self,
        step: Step,
        state: StepState,
        payload: Mapping[str, Any],
        key: str,
        inputs: Mapping[str, Atom],
        folder: Path,
    ) -> dict[str, Atom]:
        """Run the function, with its retries, and create its atoms."""
        while True:
            workspace = folder / "workspace"
            workspace.mkdir()
            state.attempts += 1
            try:
                returned = await call_step(step, state.config, dict(inputs), workspace)
            except step.retry_on:
                if state.attempts > step.retries:
                    raise
                shutil.rmtree(workspace)
                continue
            made = {}
            for constructor in returned_atoms(step, returned):
                atom = await asyncio.to_thread(self._make, step, state, constructor, key, workspace)
                made[constructor.name] = atom
            shutil.rmtree(workspace, ignore_errors=True)
            return made

    def _make(
        self, step: Step, state: StepState, constructor: AtomConstructor, key: str, workspace: Path
    ) -> Atom:
        place = Path(constructor.path)
        if not place.exists():
            raise UserError(
                f"step {step.name!r} returned {constructor.name!r} at {place}, which does not exist"
            )
        payload = {
            "kind": constructor.type,
            "work": "StepOutput",
            "version": 1,
            "config": {"name": constructor.name},
            "inputs": {"step": key},
        }
        metadata = {
            **constructor.metadata,
            "workflow": self.workflow.name,
            "step": step.name,
            "tags": list(constructor.tags),
        }
        facts = {
            "type": constructor.type,
            "made_from": state.input_atoms,
            "metadata": metadata,
            "user": self.user,
        }
        inside = (
            place.resolve().is_relative_to(workspace.resolve())
            and place.resolve() != workspace.resolve()
        )
        record = publish(
            self.store, payload, facts, place, move=inside, label=f"{step.name}/{constructor.name}"
        )
        return Atom.load(f"{constructor.type}-{record.key}", store=self.store)

    def _forget(self, key: str) -> None:
        """Remove a step's record and its atoms from the store."""
        record = self.store.read(key)
        if record is not None:
            for atom in (self._outputs(record) or {}).values():
                self.store.forget(atom.key)
            self.store.forget(key)
