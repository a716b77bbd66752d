"""The parts of a workflow: steps, their configuration, and the atoms that they return."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.errors import UserError, choices
from mosweep.workflow.atoms import Atom
from mosweep.workflow.code import code_of

__all__ = [
    "AtomConstructor",
    "Step",
    "StepConfig",
    "StepFunction",
    "Workflow",
    "WorkflowConfig",
    "call_step",
    "returned_atoms",
]


@dataclass(frozen=True)
class AtomConstructor:
    """An atom to create from the file or folder at ``path``.

    Later steps get it as ``input_atoms[name]``. A path in the step's workspace is moved into the
    store; any other path is copied. ``metadata`` must be serialisable as JSON.
    """

    name: str
    path: str | Path
    type: str
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class StepConfig:
    """Base class of a step's configuration: a dataclass of plain data, part of the step's key."""


@dataclass
class WorkflowConfig:
    """Base class of a workflow's configuration, with one field per step, named like the step."""


#: What a step returns: a list of atoms to create, or a single one.
Made = AtomConstructor | Sequence[AtomConstructor]
StepFunction = Callable[[Any, dict[str, Atom], Path], Made | Awaitable[Made]]


@dataclass(frozen=True, eq=False)
class Step:
    """One step. ``fn(config, input_atoms, temp_workspace)`` returns the atoms to create.

    ``fn`` may be async. ``input_atom_types`` (argument name → atom type) declares what the step
    reads. By default it reads all inputs of the workflow and all atoms of earlier steps. Steps that
    declare their inputs and do not depend on each other run at the same time.
    ``output_atom_types`` is checked against what the step returns. After an error of a class in
    ``retry_on``, the step is retried, up to ``retries`` times.

    A step runs again if its configuration, an input or its code changed. Its code is the function,
    what it uses of its own module, and the other modules in the folder that it uses. Variables that
    change while the program runs are not tracked.
    """

    name: str
    fn: StepFunction
    input_atom_types: Mapping[str, str] | None = None
    output_atom_types: Mapping[str, str] | None = None
    config_class: type[Any] | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise UserError(
                f"step {self.name!r}: fn must be a function of (config, input_atoms, "
                f"temp_workspace), not {self.fn!r}"
            )
        if self.retry_on and self.retries < 1:
            raise UserError(
                f"step {self.name!r}: retry_on is set, but retries is {self.retries}; must be ≥ 1"
            )

    def configured(self, config: Any) -> Any:
        """The step's part of the workflow's configuration. By default ``config_class()``."""
        own = (
            config.get(self.name)
            if isinstance(config, Mapping)
            else getattr(config, self.name, None)
        )
        if own is None and self.config_class is not None:
            try:
                return self.config_class()
            except TypeError as error:
                raise UserError(
                    f"step {self.name!r} has no configuration, and {self.config_class.__name__} "
                    f"has no defaults: {error}"
                ) from None
        if (
            isinstance(own, Mapping)
            and self.config_class is not None
            and is_dataclass(self.config_class)
        ):
            try:
                return self.config_class(**own)
            except TypeError as error:
                raise UserError(f"the configuration of step {self.name!r}: {error}") from None
        return own

    def payload(self, config: Any, inputs: Mapping[str, Atom]) -> dict[str, Any]:
        """What defines the step's result. The step's key is its digest."""
        try:
            settings = fingerprint.canonical(config, self.name)
        except TypeError as error:
            raise UserError(
                f"the configuration of step {self.name!r} has no key: {error}"
            ) from error
        about = {"config": settings, "code": code_of(self.fn)}
        return {
            "kind": "step",
            "work": "Step",
            "version": 1,
            "config": about,
            "inputs": {name: atom.key for name, atom in inputs.items()},
        }


@dataclass(frozen=True)
class Workflow:
    """Steps in order.

    ``input_atom_types`` (argument name → atom type) declares the inputs of the workflow. By default
    these are the declared inputs of its steps that no earlier step makes.
    """

    name: str
    steps: Sequence[Step]
    input_atom_types: Mapping[str, str] | None = None
    config_class: type[Any] | None = None

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"workflow {self.name!r} has more than one step {', '.join(twice)}")
        if not names:
            raise UserError(f"workflow {self.name!r} has no steps")

    def step(self, name: str) -> Step:
        """The step ``name``."""
        for step in self.steps:
            if step.name == name:
                return step
        raise UserError(
            f"workflow {self.name!r} has no step {name!r}; "
            f"{choices(name, [step.name for step in self.steps])}"
        )

    def needed(self) -> dict[str, str]:
        """The inputs that the workflow needs: argument name → atom type."""
        if self.input_atom_types is not None:
            return dict(self.input_atom_types)
        made: set[str] = set()
        needed: dict[str, str] = {}
        for step in self.steps:
            known = (
                made
                if all(earlier.output_atom_types is not None for earlier in self._before(step))
                else None
            )
            if known is not None:
                needed |= {
                    name: kind
                    for name, kind in (step.input_atom_types or {}).items()
                    if name not in known
                }
            made |= set(step.output_atom_types or ())
        return needed

    def producers(self, step: Step, given: Mapping[str, Any]) -> list[Step]:
        """The steps whose atoms ``step`` may read.

        These are the steps that make its declared inputs, or all earlier steps if it declares none.
        """
        before = self._before(step)
        if step.input_atom_types is None:
            return before
        chosen: list[Step] = []
        for name in step.input_atom_types:
            makers = [earlier for earlier in before if name in (earlier.output_atom_types or ())]
            undeclared = [earlier for earlier in before if earlier.output_atom_types is None]
            if makers:
                chosen.append(makers[-1])
            elif name not in given:
                chosen += undeclared
        return list(dict.fromkeys(chosen))

    def _before(self, step: Step) -> list[Step]:
        return list(self.steps[: list(self.steps).index(step)])


async def call_step(step: Step, config: Any, inputs: dict[str, Atom], workspace: Path) -> Any:
    """Run a step's function. One that is not async runs in a thread, so that it blocks no step."""
    if inspect.iscoroutinefunction(step.fn):
        returned: Any = step.fn(config, inputs, workspace)
    else:
        returned = await asyncio.to_thread(step.fn, config, inputs, workspace)
    return await returned if inspect.isawaitable(returned) else returned


def returned_atoms(step: Step, returned: Any) -> list[AtomConstructor]:
    """The atoms that a step returned. Raises ``UserError`` if they do not match its declaration."""
    constructors = [returned] if isinstance(returned, AtomConstructor) else returned
    if not isinstance(constructors, Sequence) or not all(
        isinstance(constructor, AtomConstructor) for constructor in constructors
    ):
        raise UserError(
            f"step {step.name!r} must return a list of AtomConstructor, not {returned!r}"
        )
    names = [constructor.name for constructor in constructors]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"step {step.name!r} made {', '.join(twice)} twice")
    types = {constructor.name: constructor.type for constructor in constructors}
    for name, kind in (step.output_atom_types or {}).items():
        if types.get(name) != kind:
            raise UserError(
                f"step {step.name!r} declares the output {name!r}, a {kind}, but it made "
                f"{names or 'nothing'}"
            )
    return list(constructors)
