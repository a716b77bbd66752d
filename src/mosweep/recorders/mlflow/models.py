"""The logged models of a sweep. Trials that share a fine-tune share its logged model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.recorders.mlflow.entities import Model
from mosweep.recorders.mlflow.naming import PARAM, TAG, base_name, key, model_name, params_of
from mosweep.recorders.mlflow.times import finished_ms

__all__ = ["Models", "leaves_model"]


@dataclass(frozen=True)
class Models:
    """The logged models of a sweep, each created on request."""

    result: SweepResult
    _models: dict[str, Model] = field(default_factory=dict, repr=False)

    @cached_property
    def _trials(self) -> dict[str, list[TrialResult]]:
        """The trials of each stage, by the stage's key."""
        users: dict[str, list[TrialResult]] = defaultdict(list)
        for trial in self.result.trials:
            for stage in trial.stages:
                if leaves_model(stage):
                    users[stage.key].append(trial)
        return users

    def of(self, stage: StageResult) -> Model:
        """The logged model of a stage, named by the factors that all its trials share."""
        if stage.key not in self._models:
            users = self._trials[stage.key]
            first, *others = [params_of(user) for user in users]
            shared = {k: v for k, v in first.items() if all(other.get(k) == v for other in others)}
            varied = {key(factor) for factor in users[0].factors}
            factors = [f"{k}={v}" for k, v in shared.items() if k in varied]
            base, model = stage.base, stage.model
            known = base.name if base else model.model_id if model else None
            own = first.get("model") or known or stage.label
            name = ",".join(factors if "model" in varied else [own, *(factors or [stage.label])])
            kept = {"model", "dummy"} if base else {"model", "dummy", "dataset", *varied}
            self._models[stage.key] = Model(
                key=stage.key,
                name=model_name(own if base else name),
                type="base" if base else stage.kind.name,
                params={k: v for k, v in shared.items() if k in kept},
                tags=_model_tags(stage),
                created_ms=finished_ms(stage),
                source=None if base else users[0].name,
            )
        return self._models[stage.key]

    def base(self, trial: TrialResult) -> Model | None:
        """The base model of a trial, from a stage or from its name."""
        for stage in trial.stages:
            if stage.base:
                return self.of(stage)
        name, user = base_name(trial), next((stage for stage in trial.stages if stage.record), None)
        if name is None or user is None:
            return None
        identity = f"base:{name}"
        if identity not in self._models:
            dummy = {"dummy": "true"} if user.pretended else {}
            tags = {"mosweep.key": identity, "mlflow.model.isExternal": "true"}
            self._models[identity] = Model(
                key=identity,
                name=model_name(name),
                type="base",
                params={"model": name[:PARAM], **dummy},
                tags=tags | {f"mosweep.{mark}": value for mark, value in dummy.items()},
                created_ms=finished_ms(user),
            )
        return self._models[identity]


def leaves_model(stage: StageResult) -> bool:
    """Whether the stage has made a model that is logged. Those of loop rounds are not."""
    return stage.record is not None and stage.kind.leaves == "model" and not stage.kind.optional


def _model_tags(stage: StageResult) -> dict[str, str]:
    tags = {
        "mosweep.key": stage.key,
        "mosweep.stage": stage.label,
        "mlflow.model.isExternal": "true",
    }
    if model := stage.model:
        about = {"model_id": model.model_id} | {
            name: model.more.get(name) for name in ("uri", "base")
        }
        tags |= {
            f"mosweep.{name}": value[:TAG]
            for name, value in about.items()
            if isinstance(value, str)
        }
    if stage.folder:
        tags["mosweep.folder"] = str(stage.folder)
    if stage.pretended:
        tags["mosweep.dummy"] = "true"
    return tags
