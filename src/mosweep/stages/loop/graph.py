"""The evaluation-driven loop: train a round, evaluate it, and so on until a score is reached. Every
step is an ordinary stage.

    data → round 1 → eval 1 → round 2 → eval 2 → … → chosen → the trial's evaluations

The chain is known before anything runs, so that cache, resume, launchers and plan take it like any
other. What is decided on the way is decided inside the stages: once a round has reached the
threshold, those after it leave nothing but ``{"stopped": true}``, at no cost. ``chosen`` stands
for the tuned model: its facts and files are those of the round that reached the threshold. A loop
in which none did fails there, and says which round was best.

A backend that can take part has ``round`` and ``peak_lr`` (``RoundBackend``). Its works know
nothing of thresholds and stopping: from the second on, each is wrapped in ``NextRound``, which
looks at the scores first. So the threshold is in no key of the first round, and loops that differ
in it share that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from mosweep.core.errors import ConfigError, MissingExtra
from mosweep.core.types import Stage
from mosweep.stages.base import Setting
from mosweep.stages.loop.rounds import (
    Chosen,
    ChosenEval,
    HardExamples,
    NextRound,
    Round,
    RoundBackend,
    RoundEval,
)
from mosweep.stages.loop.schedule import Schedule

__all__ = ["loop_stages"]


#: Backends' own settings, by section and path, that say the same as one of the loop's.
_NATIVE = {
    "use_recommended_lr": [("torchtune", "optimizer.lr"), ("tinker", "learning_rate")],
    "batch_size": [("torchtune", "batch_size"), ("tinker", "batch_size")],
    "max_seq_length": [("torchtune", "tokenizer.max_seq_len"), ("tinker", "max_length")],
}


def loop_stages(setting: Setting) -> tuple[Stage, list[Stage]]:
    """The stage that stands for the tuned model, and the trial's evaluations of it. ``ConfigError``
    for what cannot work.
    """
    config, loop = setting.config, setting.config.loop
    backend = config.backend
    if not isinstance(backend, RoundBackend):
        name = type(backend).__name__.removesuffix("Backend").lower()
        raise ConfigError(
            "loop.enabled",
            "true",
            f"backend={name} cannot train in rounds; valid: dummy, tinker, torchtune",
        )
    _check(setting)
    task, metric = _what_is_watched(setting)
    peak = _recommended_lr(setting) if loop.use_recommended_lr else backend.peak_lr(setting)
    if loop.min_lr > peak:
        raise ConfigError(
            "loop.min_lr", loop.min_lr, f"is above the learning rate itself ({peak:g})"
        )
    optim = replace(config.optim, batch_size=loop.batch_size or config.optim.batch_size)
    inner = replace(setting, config=replace(config, optim=optim))
    previous: Stage | None = None
    feedback: Stage | None = None
    chain: dict[str, Stage] = {}
    for number in range(1, loop.rounds + 1):
        before = (number - 1) * loop.steps_per_round
        this = Round(
            number,
            min(loop.steps_per_round, loop.total_steps - before),
            before,
            Schedule(
                max(peak * loop.lr_decay ** (number - 1), loop.min_lr),
                loop.min_lr,
                loop.warmup_steps,
                loop.total_steps,
            ),
            _hard(setting, metric) if feedback else None,
        )
        trained = replace(backend.round(inner, this, previous), label=f"round {number}")
        if feedback:
            work = NextRound(**_wrapped(trained), number=number, threshold=loop.threshold)
            trained = replace(trained, work=work, needs={**trained.needs, "feedback": feedback})
        scored = _evaluation(setting, task, trained)
        scored = replace(
            scored,
            label=f"eval {number}:{task}",
            work=RoundEval(**_wrapped(scored), number=number, metric=metric),
        )
        chain |= {f"round {number}": trained, f"eval {number}": scored}
        previous, feedback = trained, scored
    return _end(setting, task, chain)


def _evaluation(setting: Setting, task: str, trained: Stage) -> Stage:
    stage: Stage
    try:
        [stage] = replace(setting.config.eval, tasks=[task]).stages(setting, trained)
    except ConfigError as error:
        if error.key == "task" and setting.config.loop.task is not None:
            raise ConfigError("loop.task", task, error.problem) from None
        raise
    return stage


def _end(setting: Setting, task: str, chain: Mapping[str, Stage]) -> tuple[Stage, list[Stage]]:
    first, merged = chain["round 1"], bool(getattr(setting.config.backend, "merged", False))
    made = {"model": first.needs["model"]} if merged and "model" in first.needs else {}
    work = Chosen(
        setting.config.loop.threshold,
        merged,
        getattr(first.work, "source", None) if merged else None,
    )
    tuned = Stage("chosen", work, {**chain, **made}, setting.resources("chosen", computes=False))
    final = []
    for stage in setting.config.eval.stages(setting, tuned):
        if stage.label == setting.eval_label(task):
            scores = {role: need for role, need in chain.items() if role.startswith("eval ")}
            stage = replace(stage, work=ChosenEval(task), needs={**stage.needs, **scores})
        # the model is where the rounds' were
        final.append(replace(stage, resources=chain["eval 1"].resources))
    return tuned, final


def _hard(setting: Setting, metric: str | None) -> HardExamples | None:
    loop = setting.config.loop
    if loop.hard_examples not in ("boost", "mine"):
        return None
    mode: Literal["boost", "mine"] = "boost" if loop.hard_examples == "boost" else "mine"
    return HardExamples(
        mode, loop.hard_factor if mode == "boost" else None, loop.hard_by, metric, loop.threshold
    )


def _check(setting: Setting) -> None:
    """Refuse settings of a fine-tune that mean nothing, or something else, in a loop."""
    optim, loop = setting.config.optim, setting.config.loop
    instead = {
        "epochs": "loop.max_rounds and loop.steps_per_round",
        "max_steps_per_epoch": "loop.steps_per_round",
        "warmup_steps": "loop.warmup_steps",
    }
    for name, other in instead.items():
        if (value := getattr(optim, name)) is not None:
            raise ConfigError(f"optim.{name}", value, f"means nothing in a loop; set {other}")
    if loop.batch_size and optim.batch_size and loop.batch_size != optim.batch_size:
        raise ConfigError(
            "loop.batch_size",
            loop.batch_size,
            f"optim.batch_size={optim.batch_size} says otherwise; give one of them",
        )
    if loop.use_recommended_lr and optim.lr is not None:
        raise ConfigError(
            "loop.use_recommended_lr",
            "true",
            f"optim.lr={optim.lr:g} is given too; give one of them",
        )
    for name, natives in _NATIVE.items():
        wanted = getattr(loop, name)
        for section, path in natives if wanted else ():
            given = _native(getattr(setting.config, section), path)
            if given is not None and (wanted is True or given != wanted):
                shown = "true" if wanted is True else wanted
                raise ConfigError(
                    f"loop.{name}",
                    shown,
                    f"{section}.{path}={given} is given too; give one of them",
                )


def _native(section: Mapping[str, Any], path: str) -> Any:
    """A backend's own setting, where it is given; ``None`` where it is not."""
    if path in section:
        return section[path]
    head, _, rest = path.partition(".")
    below = section.get(head)
    return _native(below, rest) if rest and isinstance(below, Mapping) else None


def _what_is_watched(setting: Setting) -> tuple[str, str | None]:
    """The evaluation's task, and its metric; ``None`` is its only one."""
    config, loop = setting.config, setting.config.loop
    task, metric = loop.task, loop.metric
    tasks = setting.eval_tasks(getattr(config.eval, "tasks", None))
    if config.primary_metric and not (task and metric):
        known = next(
            (
                name
                for name in (*tasks, config.task.name)
                if config.primary_metric.startswith(f"{name}/")
            ),
            None,
        )
        if known and task in (None, known):
            task, metric = known, metric or config.primary_metric.removeprefix(f"{known}/")
    if task is None:
        task = config.task.name if config.task.name in tasks else tasks[0]
    return task, metric


def _recommended_lr(setting: Setting) -> float:
    """The peak learning rate that tinker-cookbook recommends for the model."""
    model = setting.config.model
    name = model.tinker or model.hub or model.name
    try:
        from tinker_cookbook.hyperparam_utils import get_lr
    except ModuleNotFoundError as error:
        raise MissingExtra("tinker-cookbook", "tinker", "loop.use_recommended_lr") from error
    try:
        return float(get_lr(name, is_lora=True))
    except Exception as error:
        problem = (
            f"tinker-cookbook recommends none for the model {name} "
            f"({' '.join(str(error).split())[:120]}); give optim.lr"
        )
        raise ConfigError("loop.use_recommended_lr", "true", problem) from error


def _wrapped(stage: Stage) -> dict[str, Any]:
    payload = stage.payload
    return {
        "about": {name: payload[name] for name in ("work", "version", "config")},
        "spec": {name: stage.spec[name] for name in ("target", "fields", "label")},
    }
