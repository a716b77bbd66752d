"""What a stage does: works, their kinds, what a launcher may ask of them. No I/O here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mosweep.core import schema
from mosweep.core.facts import Usage

__all__ = [
    "CHOSEN",
    "DATA",
    "EVAL",
    "FINETUNE",
    "MODEL",
    "ROUND",
    "ROUND_EVAL",
    "Artifact",
    "Context",
    "Json",
    "Kind",
    "RemoteWork",
    "Resources",
    "Traits",
    "Work",
]

Json = Any


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of step a stage is. Readers ask for its properties, never for its ``name``.

    - ``leaves``: what a finished stage leaves. ``scores`` are the trial's results.
    - ``trains``: it makes a model by training.
    - ``given``: it provides what the trial starts from: a base model or a data set.
    - ``optional``: a step of a loop, which may turn out not to be needed. Its results are the
      loop's own, not the trial's.
    """

    name: str
    leaves: Literal["model", "data", "scores", "other"] = "other"
    trains: bool = False
    given: bool = False
    optional: bool = False

    @property
    def scores(self) -> bool:
        """Whether its scores are results of the trial."""
        return self.leaves == "scores" and not self.optional

    @property
    def tunes(self) -> bool:
        """Whether it leaves the trial's trained model."""
        return self.trains and not self.optional

    @property
    def code(self) -> Any:
        """As JSON: the name of a kind that mosweep knows, all of it otherwise."""
        return self.name if _KNOWN.get(self.name) == self else asdict(self)

    @classmethod
    def of(cls, code: Any) -> Kind:
        """The kind that ``code`` stands for."""
        if isinstance(code, Mapping):
            return schema.build(cls, code, "kind")
        return _KNOWN.get(str(code)) or cls(str(code))

    def __str__(self) -> str:
        return self.name


#: A base model that is made here.
MODEL = Kind("model", leaves="model", given=True)
#: A data set.
DATA = Kind("data", leaves="data", given=True)
#: A fine-tune.
FINETUNE = Kind("finetune", leaves="model", trains=True)
#: A round of a loop.
ROUND = Kind("round", leaves="model", trains=True, optional=True)
#: The evaluation of a round, which decides whether there is another one.
ROUND_EVAL = Kind("round-eval", leaves="scores", optional=True)
#: The round that a loop ended with.
CHOSEN = Kind("chosen", leaves="model", trains=True)
#: An evaluation.
EVAL = Kind("eval", leaves="scores")

_KNOWN = {kind.name: kind for kind in (MODEL, DATA, FINETUNE, ROUND, ROUND_EVAL, CHOSEN, EVAL)}


@dataclass(frozen=True)
class Resources:
    """What a stage asks of the machine that runs it. ``None`` leaves the choice to the launcher."""

    nodes: int | None = field(default=None, metadata=schema.between(ge=1))
    """Machines."""
    ntasks_per_node: int | None = field(default=None, metadata=schema.between(ge=1))
    """Processes on each machine."""
    cpus: int | None = field(default=None, metadata=schema.between(ge=1))
    """CPU cores of a process."""
    gpus: int | None = field(default=None, metadata=schema.between(ge=0))
    """GPUs on each machine. With more than one, torchtune trains with its distributed recipe."""
    mem_gb: float | None = field(default=None, metadata=schema.between(gt=0))
    """Memory on each machine, in GiB. Slurm's ``mem: 80G`` means the same."""
    time_min: float | None = field(default=None, metadata=schema.between(gt=0))
    """Time limit in minutes. Slurm's ``time: "08:00:00"`` means the same."""
    account: str | None = None
    """Slurm's account."""
    partition: str | None = None
    """Slurm's partition."""
    qos: str | None = None
    """Slurm's quality of service."""
    constraint: str | None = None
    """Features that a node must have, such as ``a100``."""
    additional_parameters: Mapping[str, Any] = field(default_factory=dict)
    """Any other option of ``sbatch``, without its dashes."""


@dataclass(frozen=True)
class Artifact:
    """What a finished stage left: a folder of files and the facts about them.

    ``folder`` is absolute and belongs to the store: read it, never write to it. ``facts`` are JSON;
    ``core.facts`` has them typed. ``digest`` covers files and facts.
    """

    key: str
    kind: Kind
    folder: Path
    facts: Mapping[str, Json]
    digest: str


@dataclass(frozen=True)
class Context:
    """What a running work is given: its inputs, a fresh folder to leave files in, its resources.

    ``previous`` is the folder of an earlier attempt that failed or was killed, if there is one. Its
    files may be half written; if its process only stalled, they may still change. ``spent`` are a
    provider's jobs for this stage whose results were deleted to be made again: do not reuse them.
    """

    key: str
    out: Path
    inputs: Mapping[str, Artifact]
    resources: Resources
    previous: Path | None = None
    spent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a launcher, the plan and ``doctor`` want to know of a work.

    - ``requires``: modules that have to be installed, each with mosweep's extra that brings it.
    - ``runtime``: what is slow to load. Stages that share a runtime share a process.
    - ``silent``: prints nothing, gets no log unless it fails, and makes ``context.out`` itself.
    - ``immediate``: takes milliseconds and awaits nothing, so it needs no event loop.
    - ``may_be_trivial``: ``is_trivial`` may say that there is nothing to do.
    - ``notice``: a line for the plan.
    - ``provider``: who is paid for tokens, such as ``openai``.
    - ``remote``: the work that waits for a provider's computer, where it does.
    """

    requires: Mapping[str, str] = field(default_factory=dict)
    runtime: str = ""
    silent: bool = False
    immediate: bool = False
    may_be_trivial: bool = False
    notice: str | None = None
    provider: str | None = None
    remote: RemoteWork | None = None


_PLAIN = Traits()


class Work(ABC):
    """What a stage does. Subclass it as a frozen dataclass whose fields are plain data.

    Keep the module cheap to import. Fields marked ``fingerprint.unkeyed`` (paths, interpreters,
    devices) are not part of the key. Raise ``version`` when the same fields would now give another
    result.
    """

    __slots__ = ()

    kind: ClassVar[Kind]
    version: ClassVar[int]

    @property
    def traits(self) -> Traits:
        """How it wants to be run."""
        return _PLAIN

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether these inputs leave nothing to do but to look and to link: no job for that."""
        return False

    def expected_usage(self, tokens: int) -> Usage | None:
        """What a fine-tune on a data set of so many ``tokens`` uses; ``None`` if unknown."""
        return None

    @abstractmethod
    async def run(self, context: Context) -> Mapping[str, Json]:
        """Do the work, leave files in ``context.out``, return the facts.

        Any exception is a failure of the stage.
        """


class RemoteWork(Work):
    """A work that waits for a provider's computer.

    All works of a provider share one process and one event loop, up to ``max_concurrent`` (a field)
    at a time: ``run`` must not block. The id of the provider's job belongs into the facts as
    ``remote_job``. With ``outlives``, the job goes on when our process ends.
    """

    __slots__ = ()

    provider: ClassVar[str]
    outlives: ClassVar[bool] = False
    max_concurrent: int

    @classmethod
    def check_access(cls, works: Sequence[Self]) -> None:
        """Ask the provider, once per launch, whether it would take these works.

        Raises ``ConfigError`` if it would not, ``UserError`` if it cannot be asked.
        """

    @classmethod
    def begun(cls, keys: Mapping[str, Collection[str]]) -> set[str]:
        """Those of ``keys`` whose jobs exist at the provider and would be attached to.

        The jobs given with a key do not count.
        """
        return set()

    @classmethod
    def cancel(cls, keys: Sequence[str]) -> dict[str, str]:
        """End the jobs that go on for ``keys``; the ended jobs by key."""
        return {}
