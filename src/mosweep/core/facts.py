"""The typed facts that stages report about data sets, models and evaluations.

A work returns ``to_json()`` of one of these classes, and readers call ``of(facts)``. Facts that
only one backend or evaluator reports are in ``more``. In JSON they are beside the typed fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from mosweep.core.errors import StoreError

__all__ = [
    "Access",
    "AdapterAccess",
    "BaseFacts",
    "DataFacts",
    "DatasetRef",
    "EvalFacts",
    "HostedAccess",
    "ModelFacts",
    "RoundFacts",
    "ScorerFacts",
    "Usage",
    "WeightsAccess",
]

Json = Any
Point = Sequence[float]


@dataclass(frozen=True)
class Usage:
    """The tokens that a stage used at a provider.

    ``train_tokens`` counts a token once per epoch. ``model`` is the provider's own name for the
    model: the base model, ``ft:<base>:…``, or ``tinker/<base>@…``.
    """

    provider: str
    model: str
    train_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class AdapterAccess:
    """A LoRA adapter in PEFT's layout, in ``folder`` of the artifact, over the base model."""

    folder: str = "adapter"


@dataclass(frozen=True)
class WeightsAccess:
    """All weights, in Hugging Face's layout, in ``folder`` of the artifact."""

    folder: str = "model"


@dataclass(frozen=True)
class HostedAccess:
    """A model that a provider serves: Inspect's name for the provider, and the model's name there.

    ``options`` go to the provider's client. With ``base_tokenizer`` the client also needs the
    folder of the base model, for its tokenizer.
    """

    provider: str
    model: str
    base_url: str | None = None
    options: Mapping[str, Json] = field(default_factory=dict)
    base_tokenizer: bool = False


#: How an evaluation reaches a model.
Access = AdapterAccess | WeightsAccess | HostedAccess
_ACCESS: dict[str, type[Access]] = {
    "adapter": AdapterAccess,
    "weights": WeightsAccess,
    "hosted": HostedAccess,
}


@dataclass(frozen=True)
class DatasetRef:
    """The data set that was used: its name, and the digest of its training data."""

    name: str
    digest: str | None = None


@dataclass(frozen=True)
class _Facts:
    """The base of all facts. ``more`` holds the facts without a field of their own."""

    version: ClassVar[int] = 1

    more: Mapping[str, Json] = field(default_factory=dict, kw_only=True)
    dummy: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, facts: Mapping[str, Json]) -> Self:
        """Read facts that ``to_json`` wrote."""
        names, required = _names(cls)
        known = {name: facts[name] for name in names if name in facts}
        more = {
            name: value for name, value in facts.items() if name not in names and name != "version"
        }
        missing = [name for name in required if name not in known]
        if missing:
            raise StoreError(f"{cls.__name__} of a stage: missing {', '.join(missing)}")
        return cls(**cls._read(known), more=more)

    @classmethod
    def _read(cls, known: dict[str, Json]) -> dict[str, Any]:
        if isinstance(dataset := known.get("dataset"), Mapping):
            known["dataset"] = DatasetRef(str(dataset.get("name")), dataset.get("digest"))
        return known

    def to_json(self) -> dict[str, Json]:
        """The facts as a record keeps them, without unknown and empty ones."""
        names, required = _names(type(self))
        values = {name: getattr(self, name) for name in names}
        kept = {
            name: value
            for name, value in values.items()
            if name in required or not _is_empty(value)
        }
        if isinstance(dataset := kept.get("dataset"), DatasetRef):
            kept["dataset"] = asdict(dataset)
        return {"version": self.version, **kept, **self.more}


#: For each class, the names of its facts without ``more``, and of its required facts.
_NAMES: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {}


def _names(kind: type[_Facts]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if kind not in _NAMES:
        facts = [fact for fact in fields(kind) if fact.name != "more"]
        _NAMES[kind] = (
            tuple(fact.name for fact in facts),
            tuple(
                fact.name
                for fact in facts
                if fact.default is MISSING and fact.default_factory is MISSING
            ),
        )
    return _NAMES[kind]


def _is_empty(value: Any) -> bool:
    """Whether a fact is empty. A count or a loss of 0 is not."""
    return value is None or value is False or (isinstance(value, Sized) and not len(value))


@dataclass(frozen=True)
class BaseFacts(_Facts):
    """A generated base model, in ``folder`` of the artifact."""

    name: str
    folder: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class DataFacts(_Facts):
    """A data set in ``folder`` of the artifact.

    ``files`` has the rows of each file. ``rows`` and ``digest`` are those of ``train.jsonl``.
    """

    name: str
    folder: str
    rows: int
    digest: str
    files: Mapping[str, int] = field(default_factory=dict)
    task: str | None = None


@dataclass(frozen=True)
class ModelFacts(_Facts):
    """A trained model.

    ``loss`` and each of ``curves`` are points of step and value. ``seconds`` covers the whole run,
    ``train_seconds`` only its steps. ``remote_job`` has the provider's job ids, separated by
    spaces. ``usage`` is ``cost.prices.facts`` of the tokens that were paid for.
    """

    model_id: str
    access: Access | None = None
    dataset: DatasetRef | None = None
    steps: int | None = None
    final_loss: float | None = None
    loss: Sequence[Point] = ()
    curves: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    seconds: float | None = None
    train_seconds: float | None = None
    device: str | None = None
    remote_job: str | None = None
    usage: Json = None

    @classmethod
    def _read(cls, known: dict[str, Json]) -> dict[str, Any]:
        if isinstance(access := known.get("access"), Mapping):
            rest = {name: value for name, value in access.items() if name != "type"}
            known["access"] = _ACCESS[access["type"]](**rest)
        return super()._read(known)

    def to_json(self) -> dict[str, Json]:
        """The facts as a record keeps them, without unknown and empty ones."""
        facts = super().to_json()
        if self.access is not None:
            name = next(name for name, kind in _ACCESS.items() if isinstance(self.access, kind))
            rest = {
                key: value
                for key, value in asdict(self.access).items()
                if value not in (None, {}, False)
            }
            facts["access"] = {"type": name, **rest}
        return facts


@dataclass(frozen=True)
class ScorerFacts:
    """What one scorer measured.

    - ``scorer``: the name of its items' scores in the samples
    - ``metrics``: its metrics that have a value
    - ``names``: the name of each metric among those of all scorers
    - ``n``: the items that it scored
    - ``stderr``: the standard error of the mean of its items' scores
    - ``undefined``: its metrics without a value, each with the reason
    """

    scorer: str
    metrics: Mapping[str, float]
    names: Mapping[str, str]
    n: int
    stderr: float | None = None
    undefined: Mapping[str, str] = field(default_factory=dict)


#: Metrics that are the mean of the items' scores, so that ``stderr`` is their standard error.
_MEANS = ("accuracy", "mean")


@dataclass(frozen=True)
class EvalFacts(_Facts):
    """A model's scores on a task: ``metrics`` by name, over ``n`` items.

    ``scorers`` says which scorer measured each. Without it, a metric ``stderr`` belongs to the only
    other metric.
    """

    task: str
    model_id: str
    metrics: Mapping[str, float]
    n: int
    dataset: DatasetRef | None = None
    usage: Json = None
    scorers: Sequence[ScorerFacts] = ()

    @classmethod
    def _read(cls, known: dict[str, Json]) -> dict[str, Any]:
        known["scorers"] = tuple(
            one if isinstance(one, ScorerFacts) else ScorerFacts(**one)
            for one in known.get("scorers", ())
        )
        return super()._read(known)

    def to_json(self) -> dict[str, Json]:
        """The facts as a record keeps them, without unknown and empty ones."""
        facts = super().to_json()
        if self.scorers:
            facts["scorers"] = [asdict(one) for one in self.scorers]
        return facts

    @property
    def undefined(self) -> dict[str, str]:
        """The metrics without a value, by name, each with the reason."""
        return {
            one.names[metric]: why for one in self.scorers for metric, why in one.undefined.items()
        }

    @property
    def sizes(self) -> set[int]:
        """How many items were scored. Several numbers if scorers left out different items."""
        return {one.n for one in self.scorers} or {self.n}

    def scorer_of(self, name: str) -> str | None:
        """The name of the scores that the metric ``name`` summarises, if that is recorded."""
        return next((one.scorer for one in self.scorers if name in one.names.values()), None)

    def stderr_of(self, name: str) -> float | None:
        """The standard error of the metric ``name``, if it is a mean and has one."""
        for one in self.scorers:
            for metric, full in one.names.items():
                if full == name:
                    return one.stderr if metric in _MEANS or metric == one.scorer else None
        others = [other for other in self.metrics if other != "stderr"]
        return self.metrics.get("stderr") if others == [name] else None


@dataclass(frozen=True)
class RoundFacts:
    """What a loop records about an evaluated round, besides the evaluation's own facts.

    ``watched`` is the metric, without its task, that decides whether there is another round.
    ``score`` is its value.
    """

    number: int
    watched: str
    score: float

    @classmethod
    def of(cls, facts: Mapping[str, Json]) -> RoundFacts:
        """Read the facts of a round's evaluation."""
        return cls(int(facts["round"]), str(facts["watched"]), float(facts["score"]))
