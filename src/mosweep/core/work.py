"""Works, which are what stages do, their kinds, and their traits. This module does no I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from mosweep.core import schema
from mosweep.core.facts import Usage
from mosweep.core.task_code import work_code

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
    """The kind of a stage. Other code reads its properties and must not compare its ``name``.

    - ``leaves``: the sort of result.
    - ``trains``: it trains a model.
    - ``given``: it provides what the trial starts from: a base model or a data set.
    - ``optional``: a step of a loop, which may not be needed. Its results belong to the loop, not
      to the trial.
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
        """Whether its result is the trial's trained model."""
        return self.trains and not self.optional

    @property
    def code(self) -> Any:
        """The kind as JSON: its name if it is one of mosweep's own, otherwise all its fields."""
        return self.name if _KNOWN.get(self.name) == self else asdict(self)

    @classmethod
    def of(cls, code: Any) -> Kind:
        """The kind with this ``code``."""
        if isinstance(code, Mapping):
            return schema.build(cls, code, "kind")
        return _KNOWN.get(str(code)) or cls(str(code))

    def __str__(self) -> str:
        return self.name


#: A generated base model.
MODEL = Kind("model", leaves="model", given=True)
#: A data set.
DATA = Kind("data", leaves="data", given=True)
#: A fine-tune.
FINETUNE = Kind("finetune", leaves="model", trains=True)
#: A round of a loop.
ROUND = Kind("round", leaves="model", trains=True, optional=True)
#: The evaluation of a round, which decides whether there is another one.
ROUND_EVAL = Kind("round-eval", leaves="scores", optional=True)
#: The round that a loop chose.
CHOSEN = Kind("chosen", leaves="model", trains=True)
#: An evaluation.
EVAL = Kind("eval", leaves="scores")

_KNOWN = {kind.name: kind for kind in (MODEL, DATA, FINETUNE, ROUND, ROUND_EVAL, CHOSEN, EVAL)}


@dataclass(frozen=True)
class Resources:
    """The resources that a stage requests. ``None`` leaves the choice to the launcher."""

    nodes: int | None = field(default=None, metadata=schema.between(ge=1))
    """Machines."""
    ntasks_per_node: int | None = field(default=None, metadata=schema.between(ge=1))
    """Processes on each machine."""
    cpus: int | None = field(default=None, metadata=schema.between(ge=1))
    """CPU cores of a process."""
    gpus: int | None = field(default=None, metadata=schema.between(ge=0))
    """GPUs on each machine. With more than one, torchtune trains with its distributed recipe."""
    gpu_type: str | None = None
    """Slurm's type of GPU, such as ``a100``. Slurm's ``gres: gpu:a100:2`` sets it and ``gpus``."""
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
    """The result of a finished stage: a folder of files, and the facts about them.

    ``folder`` is absolute and belongs to the store: never write to it. ``facts`` are JSON, and
    ``core.facts`` types them. ``digest`` covers files and facts.
    """

    key: str
    kind: Kind
    folder: Path
    facts: Mapping[str, Json]
    digest: str


@dataclass(frozen=True)
class Context:
    """What a running work gets: its inputs, a new folder ``out`` for its files, its resources.

    ``previous`` is the folder of an earlier attempt that failed or was killed, if there is one. Its
    files may be half written. If its process only stalled, they may still change. ``spent`` are the
    provider's jobs for this stage whose results were deleted to be computed again: never reuse
    them.
    """

    key: str
    out: Path
    inputs: Mapping[str, Artifact]
    resources: Resources
    previous: Path | None = None
    spent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What launchers, the plan and ``doctor`` need to know about a work.

    - ``requires``: modules that must be installed, each with the mosweep extra that installs it.
    - ``runtime``: a library that is slow to load. Stages with the same runtime share a process.
    - ``silent``: it prints nothing, has a log only if it fails, and creates ``context.out`` itself.
    - ``immediate``: it takes milliseconds and awaits nothing, so it needs no event loop.
    - ``may_be_trivial``: ``is_trivial`` may return true.
    - ``notice``: a line for the plan.
    - ``provider``: the provider that is paid for tokens, such as ``openai``.
    - ``remote``: the work itself, if a provider's computer does it.
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
    """The work of a stage. Subclass it as a frozen dataclass whose fields are plain data.

    Keep its module cheap to import. Fields marked ``fingerprint.unkeyed`` (paths, interpreters,
    devices) are not part of the key. Raise ``version`` when the same fields give a different
    result than before.
    """

    __slots__ = ()

    kind: ClassVar[Kind]
    version: ClassVar[int]

    @property
    def traits(self) -> Traits:
        """What launchers, the plan and ``doctor`` need to know about it."""
        return _PLAIN

    def is_trivial(self, inputs: Mapping[str, Artifact]) -> bool:
        """Whether the work on these inputs is too small for a job."""
        return False

    def reads(self, role: str, artifact: Artifact) -> Json:
        """What the result depends on of the input ``role``, by default all its facts and files.

        A finished stage is found again if this is the same, whichever stage the input is. It must
        not have times, job ids or paths.
        """
        return artifact.digest

    def sources(self) -> tuple[Path, Mapping[str, str]] | None:
        """The folder and the files of the user's code that it runs, each with its digest.

        Their ``task_code.code_digest`` is the field ``code``, or ``code`` of the payload for a work
        that is not mosweep's. ``None`` if it runs none.
        """
        files = None if type(self).__module__.startswith("mosweep.") else work_code(type(self))
        return (Path.cwd(), files) if files else None

    def expected_usage(self, tokens: int) -> Usage | None:
        """The usage of a fine-tune on a data set of ``tokens`` tokens, or ``None`` if unknown."""
        return None

    @abstractmethod
    async def run(self, context: Context) -> Mapping[str, Json]:
        """Do the work: write files to ``context.out`` and return the facts.

        With any exception the stage has failed.
        """


class RemoteWork(Work):
    """A work that a provider's computer does.

    All works of a provider share one process and one event loop, with up to ``max_concurrent`` (a
    field) at a time, so ``run`` must not block. The facts must have the id of the provider's job as
    ``remote_job``. With ``outlives``, the job continues when our process ends.
    """

    __slots__ = ()

    provider: ClassVar[str]
    outlives: ClassVar[bool] = False
    max_concurrent: int

    @property
    def traits(self) -> Traits:
        """The work is remote. Add ``provider`` if the provider charges for tokens."""
        return Traits(remote=self)

    @classmethod
    def check_access(cls, works: Sequence[Self]) -> None:
        """Ask the provider, once per launch, whether it would accept these works.

        Raises ``ConfigError`` if it would not, and ``UserError`` if it cannot be asked.
        """

    @classmethod
    def begun(cls, keys: Mapping[str, Collection[str]]) -> set[str]:
        """The ``keys`` with a job at the provider that a run would attach to.

        The jobs given with a key do not count.
        """
        return set()

    @classmethod
    def cancel(cls, keys: Sequence[str]) -> dict[str, str]:
        """Cancel the running jobs of ``keys``. Returns the cancelled jobs by key."""
        return {}
