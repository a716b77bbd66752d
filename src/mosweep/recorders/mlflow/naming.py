"""Params and names that MLflow accepts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from mosweep.core.levels import level_text
from mosweep.core.results import StageResult, TrialResult

__all__ = ["DIGEST", "KEY", "PARAM", "TAG", "base_name", "key", "model_name", "params_of"]

#: The longest value of a param, in characters.
PARAM = 6000
#: The longest value of a tag.
TAG = 8000
#: The longest name.
KEY = 250
#: The longest digest of a data set.
DIGEST = 32

#: ``torchtune/tiny@3f2a`` or ``ft:gpt-4o:org::id``: a tuned model's id, with its base model's name.
_TUNED = re.compile(r"[\w-]+/(.+)@[^@]+|ft:([^:]+):.*")


@lru_cache(4096)
def key(text: str) -> str:
    """``text`` as the name of a param, metric or tag."""
    parts = re.sub(r"[^\w\-. :/]", "_", text).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:KEY] or "_"


def model_name(text: str) -> str:
    """``text`` as the name of a logged model."""
    return re.sub(r"[/:.%\"']", "_", text)[:KEY]


def params_of(trial: TrialResult) -> dict[str, str]:
    """The factors, and the model, data set and task if they do not vary, and ``dummy``."""
    params = {key(factor): level_text(value)[:PARAM] for factor, value in trial.factors.items()}
    tasks = dict.fromkeys(evaluation.task for _, evaluation in trial.evaluations)
    constant = {
        "model": base_name(trial),
        "dataset": _dataset_name(trial),
        "task": ",".join(tasks),
    }
    for name, value in constant.items():
        if value and name not in params:
            params[name] = value[:PARAM]
    if trial.pretended:
        params["dummy"] = "true"
    return params


def base_name(trial: TrialResult) -> str | None:
    """The name of the base model, from a factor, a stage or a model's id."""
    factor = trial.factors.get("model")
    if isinstance(factor, str):
        return factor
    for stage in trial.stages:
        if name := _configured(stage):
            return name
    for stage in trial.stages:
        trained = stage.model or stage.evaluation
        if trained is None:
            continue
        if tuned := _TUNED.fullmatch(trained.model_id):
            return tuned[1] or tuned[2]
        if stage.kind.scores:  # It evaluated a base model.
            return trained.model_id
    return next((stage.base.name for stage in trial.stages if stage.base), None)


def _configured(stage: StageResult) -> str | None:
    """The base model in the backend's facts."""
    model = stage.facts.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    return name if isinstance(name, str) and name else None


def _dataset_name(trial: TrialResult) -> str | None:
    for stage in trial.stages:
        if stage.dataset:
            return stage.dataset.name
        user = stage.model or stage.evaluation
        if user and user.dataset:
            return user.dataset.name
    return None
