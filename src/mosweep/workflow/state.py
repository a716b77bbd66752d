"""The state of a workflow and of its steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from mosweep.core.errors import MosweepError, UserError, choices
from mosweep.core.store import Store
from mosweep.workflow.atoms import Atom
from mosweep.workflow.publishing import default_store

__all__ = ["StepState", "WorkflowError", "WorkflowState"]

StepStatus = Literal["pending", "running", "succeeded", "failed", "skipped"]


@dataclass
class StepState:
    """The state of a step. ``cached``: its result was in the store, and nothing ran.

    ``input_atoms`` and ``output_atoms`` map argument names to atom ids.
    """

    step_name: str
    config: Any = None
    status: StepStatus = "pending"
    cached: bool = False
    input_atoms: dict[str, str] = field(default_factory=dict)
    output_atoms: dict[str, str] = field(default_factory=dict)
    runtime_seconds: float = 0.0
    attempts: int = 0
    error: str | None = None


@dataclass
class WorkflowState:
    """The state of a workflow, step by step."""

    workflow_name: str
    input_atoms: dict[str, str]
    config: Any
    step_states: list[StepState]
    time_started: datetime
    time_finished: datetime | None = None
    store: Store = field(default_factory=default_store, repr=False)

    def __getitem__(self, step: str) -> StepState:
        for state in self.step_states:
            if state.step_name == step:
                return state
        raise KeyError(step)

    def atom(self, name: str) -> Atom:
        """The latest atom with this ``name``."""
        for state in reversed(self.step_states):
            if name in state.output_atoms:
                return Atom.load(state.output_atoms[name], store=self.store)
        if name in self.input_atoms:
            return Atom.load(self.input_atoms[name], store=self.store)
        known = [
            *self.input_atoms,
            *(made for state in self.step_states for made in state.output_atoms),
        ]
        raise UserError(
            f"workflow {self.workflow_name!r} made no atom {name!r}; {choices(name, known)}"
        )


class WorkflowError(MosweepError):
    """A step failed. ``state`` is the workflow's state.

    Steps that do not depend on the failed step are done.
    """

    def __init__(self, message: str, state: WorkflowState) -> None:
        super().__init__(message)
        self.state = state
