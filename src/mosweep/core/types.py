"""The nouns of mosweep: what a stage is, what it does, what it leaves. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from mosweep.core import fingerprint, schema

__all__ = [
    *("OF_ROUNDS", "Artifact", "Context", "Json", "Resources", "Stage", "Status", "Trial", "Work"),
    *("in_order", "load_work", "unique_stages"),
]

Json = Any
#: Kinds of the stages of a loop that may turn out not to be needed.
OF_ROUNDS = ("round", "round-eval")
Status = Literal["succeeded", "failed", "running", "pending", "cancelled"]


@dataclass(frozen=True)
class Resources:
    """What a stage asks of the machine that runs it. ``None`` leaves the choice to the launcher."""

    nodes: int | None = field(default=None, metadata=schema.between(ge=1))
    ntasks_per_node: int | None = field(default=None, metadata=schema.between(ge=1))
    cpus: int | None = field(default=None, metadata=schema.between(ge=1))
    gpus: int | None = field(default=None, metadata=schema.between(ge=0))
    mem_gb: float | None = field(default=None, metadata=schema.between(gt=0))
    time_min: float | None = field(default=None, metadata=schema.between(gt=0))
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """What a finished stage left: a folder of files and the facts about them.

    ``folder`` is absolute and belongs to the store: read it, never write to it. ``facts`` are JSON
    (metrics, model id, how Inspect reaches the model …). ``digest`` covers files and facts.
    """

    key: str
    kind: str
    folder: Path
    facts: Mapping[str, Json]
    digest: str


@dataclass(frozen=True)
class Context:
    """What a work is given when it runs: its inputs, a fresh folder to leave files in, and what it
    may use.

    ``previous`` is the folder that an earlier attempt left which failed or was killed, if there is
    one. Its process is dead, or stalled and its claim taken over: what is found there may be half
    written, or change yet. ``spent``: a provider's jobs for this very stage whose results were
    forgotten so as to be made anew; they are not to be taken again.
    """

    key: str
    out: Path
    inputs: Mapping[str, Artifact]
    resources: Resources
    previous: Path | None = None
    spent: frozenset[str] = frozenset()


@runtime_checkable
class Work(Protocol):
    """What a stage does. Implementations are frozen dataclasses, cheap to import, whose fields are
    plain data.

    Fields marked ``fingerprint.unkeyed`` (paths, interpreters, devices) do not enter the key. Raise
    ``version`` when the same configuration would now give another result. Some attributes are
    optional: ``requires`` (module → mosweep's extra that brings it) is looked at before anything
    starts; ``runtime`` names what is dear to load, so that stages which share it share a process; a
    work that is ``silent`` prints nothing, gets no log unless it fails, and makes ``context.out``
    itself if it leaves files; one that is ``immediate`` takes milliseconds, awaits nothing, and
    needs no event loop; ``trivial(inputs)`` says that with these inputs there is nothing to do but
    to look and to link, which deserves no job of its own. A work that waits for somebody else's
    computer names the provider in ``remote`` and how many of its kind may be under way at a time in
    ``max_concurrent``: they share one process and one event loop, so it must not block. It may have
    a class method ``check_access(works)``, called once per launch with all that are to run, which
    asks the provider whether it would take them and raises ``ConfigError`` if not, ``UserError``
    where it cannot be asked; ``notice``, a line for the plan; and ``outlives``: what it began there
    goes on without us, until a class method ``cancel(keys)`` ends it, which returns the jobs it has
    ended by key. A class method ``begun(keys)``, with jobs by key that are not to be taken, returns
    those of the keys for which the provider has a job that would be attached to: what it refuses to
    begin does not concern them. The id of the provider's job goes into its facts as ``remote_job``.
    Where the provider asks money for tokens, the facts have a ``usage`` (``prices.facts``), and the
    method ``expected_usage(tokens)`` of a fine-tune says what a data set of so many tokens would
    use.
    """

    kind: ClassVar[str]
    version: ClassVar[int]

    async def run(self, context: Context) -> Mapping[str, Json]:
        """Do the work, leave files in ``context.out``, return the facts. Any exception is a failure
        of the stage.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a trial: the unit of caching, of placement and of retry. Two stages with one
    ``key`` are one stage.
    """

    label: str
    work: Work
    needs: Mapping[str, Stage] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    _key: str = field(default="", init=False, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """``model``, ``data``, ``finetune``, ``eval``, …"""
        return self.work.kind

    @property
    def payload(self) -> dict[str, Any]:
        """What defines the result, in canonical form; stored beside the record so that ``explain``
        can compare.
        """
        return {
            "kind": self.work.kind,
            "work": type(self.work).__name__,
            "version": self.work.version,
            "config": fingerprint.canonical(self.work),
            "inputs": {role: need.key for role, need in self.needs.items()},
        }

    @property
    def key(self) -> str:
        """The stage's identity: 64 hexadecimal digits."""
        if not self._key:
            object.__setattr__(self, "_key", fingerprint.fingerprint(self.payload))
        return self._key

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that a worker in another process needs, as JSON; ``load_work`` reads it
        back.
        """
        work = type(self.work)
        return {
            "key": self.key,
            "label": self.label,
            "kind": self.kind,
            "target": f"{work.__module__}.{work.__qualname__}",
            "fields": schema.plain(self.work),
            "payload": self.payload,
            "needs": {role: need.key for role, need in self.needs.items()},
            "resources": {
                k: v for k, v in schema.plain(self.resources).items() if v is not None and v != {}
            },
        }


def load_work(spec: Mapping[str, Any]) -> Work:
    """The work that ``Stage.spec`` described."""
    work: Work = schema.build(
        schema.load_target(str(spec["target"]), "target"), spec["fields"], str(spec["label"])
    )
    return work


@dataclass(frozen=True, slots=True)
class Trial:
    """One complete setting of every factor. ``factors`` are those that vary over the sweep;
    ``config`` is all of it.
    """

    name: str
    factors: Mapping[str, Json]
    stages: tuple[Stage, ...]
    control: bool = False
    config: Mapping[str, Json] = field(default_factory=dict, repr=False)

    @property
    def id(self) -> str:
        """Identity of the trial: that of its last stages."""
        return fingerprint.fingerprint([stage.key for stage in self.stages])


def in_order(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages and all they need, each once, by key, needs before those who need them."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for need in stage.needs.values():
                visit(need)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return found


def unique_stages(trials: Iterable[Trial]) -> dict[str, Stage]:
    """Every stage of the trials once, by key, needs first."""
    return in_order(stage for trial in trials for stage in trial.stages)
