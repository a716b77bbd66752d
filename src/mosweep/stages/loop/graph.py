"""The evaluation-driven loop: train a round, evaluate it, and repeat until a score is reached.

    data → round 1 → eval 1 → round 2 → eval 2 → … → chosen → the trial's evaluations

Every step is an ordinary stage. The chain is known before anything runs, so cache, resume,
launchers and plan need no special cases. The stages themselves decide: once a round has reached the
threshold, later rounds only record ``{"stopped": true}``, at no cost. ``chosen`` is the
tuned model: it has the facts and files of the round that reached the threshold. If no round
reached it, ``chosen`` fails and names the best one.

A backend that can train in rounds has ``round`` and ``peak_lr`` (``RoundBackend``). Its works must
not know about thresholds or stopping. From the second on, each is wrapped in ``NextRound``, which
checks the score first. So the threshold is not in the key of the first round, and loops with
different thresholds share that round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mosweep.config.choices import choices_of, name_of
from mosweep.core.errors import ConfigError
from mosweep.core.types import Stage
from mosweep.models.learning_rate import recommended_lr
from mosweep.stages.base import TrialConfig
from mosweep.stages.loop.backend import HardExamples, Round, RoundBackend
from mosweep.stages.loop.rounds import Chosen, ChosenEval, NextRound, RoundEval
from mosweep.stages.loop.schedule import Schedule
from mosweep.stages.model import base_model

__all__ = ["LoopStages", "loop_stages"]


@dataclass(frozen=True)
class LoopStages:
    """A loop's stages.

    ``chosen`` is the tuned model, ``chain`` has rounds and their evaluations by role, and
    ``watched`` is the label of the evaluation that the loop watches.
    """

    chosen: Stage
    chain: Mapping[str, Stage]
    task: str
    watched: str

    def evaluations(self, evals: Sequence[Stage]) -> list[Stage]:
        """The trial's evaluations of ``chosen``. The loop has already run the watched one."""
        scores = {role: need for role, need in self.chain.items() if role.startswith("eval ")}
        stages = []
        for stage in evals:
            if stage.label == self.watched:
                work = ChosenEval(self.task)
                stage = replace(stage, work=work, needs={**stage.needs, **scores})
            # The chosen model is served like the rounds' models.
            stages.append(replace(stage, resources=self.chain["eval 1"].resources))
        return stages


def loop_stages(trial: TrialConfig) -> LoopStages:
    """The stages of the trial's loop. Raises ``ConfigError`` if it cannot work."""
    config, loop = trial.config, trial.config.loop
    backend = config.backend
    if not isinstance(backend, RoundBackend):
        name = name_of("backend", backend)
        valid = [n for n, kind in choices_of("backend").items() if issubclass(kind, RoundBackend)]
        raise ConfigError(
            "loop.enabled",
            "true",
            f"backend={name} cannot train in rounds; valid: {', '.join(sorted(valid))}",
        )
    _check(trial)
    task, metric = _watched(trial)
    peak = _recommended_lr(trial) if loop.use_recommended_lr else backend.peak_lr(trial)
    if loop.min_lr > peak:
        raise ConfigError("loop.min_lr", loop.min_lr, f"is above the learning rate ({peak:g})")
    optim = replace(config.optim, batch_size=loop.batch_size or config.optim.batch_size)
    round_trial = replace(trial, config=replace(config, optim=optim))
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
            _hard(trial, metric) if feedback else None,
        )
        trained = replace(backend.round(round_trial, this, previous), label=f"round {number}")
        if feedback:
            work = NextRound(**_wrapped(trained), number=number, threshold=loop.threshold)
            trained = replace(trained, work=work, needs={**trained.needs, "feedback": feedback})
        scored = _evaluation(trial, task, trained)
        scored = replace(
            scored,
            label=f"eval {number}:{task}",
            work=RoundEval(**_wrapped(scored), number=number, metric=metric),
        )
        chain |= {f"round {number}": trained, f"eval {number}": scored}
        previous, feedback = trained, scored
    return LoopStages(_chosen(trial, chain), chain, task, trial.eval_label(task))


def _evaluation(trial: TrialConfig, task: str, trained: Stage) -> Stage:
    stage: Stage
    try:
        [stage] = replace(trial.config.eval, tasks=[task]).stages(trial, trained)
    except ConfigError as error:
        if error.key == "task" and trial.config.loop.task is not None:
            raise ConfigError("loop.task", task, error.problem) from None
        raise
    return stage


def _chosen(trial: TrialConfig, chain: Mapping[str, Stage]) -> Stage:
    first, merged = chain["round 1"], trial.config.backend.merges
    generated = {"model": first.needs["model"]} if merged and "model" in first.needs else {}
    source = base_model(trial)[1] if merged else None
    work = Chosen(trial.config.loop.threshold, merged, source)
    return Stage("chosen", work, {**chain, **generated}, trial.resources("chosen", computes=False))


def _hard(trial: TrialConfig, metric: str | None) -> HardExamples | None:
    loop = trial.config.loop
    if loop.hard_examples not in ("boost", "mine"):
        return None
    mode: Literal["boost", "mine"] = "boost" if loop.hard_examples == "boost" else "mine"
    return HardExamples(
        mode, loop.hard_factor if mode == "boost" else None, loop.hard_by, metric, loop.threshold
    )


def _check(trial: TrialConfig) -> None:
    """Refuse settings that do not apply to a loop or conflict with the loop's own."""
    optim, loop = trial.config.optim, trial.config.loop
    instead = {
        "epochs": "loop.max_rounds and loop.steps_per_round",
        "max_steps_per_epoch": "loop.steps_per_round",
        "warmup_steps": "loop.warmup_steps",
    }
    for name, other in instead.items():
        if (value := getattr(optim, name)) is not None:
            raise ConfigError(f"optim.{name}", value, f"does not apply to a loop; set {other}")
    if loop.batch_size and optim.batch_size and loop.batch_size != optim.batch_size:
        raise ConfigError(
            "loop.batch_size",
            loop.batch_size,
            f"optim.batch_size={optim.batch_size} is also set; set only one of them",
        )
    if loop.use_recommended_lr and optim.lr is not None:
        raise ConfigError(
            "loop.use_recommended_lr",
            "true",
            f"optim.lr={optim.lr:g} is also set; set only one of them",
        )
    for section, name, path in _loop_settings(trial.config.backend):
        expected = getattr(loop, name)
        value = _native(trial.native(section), path) if expected else None
        if value is not None and (expected is True or value != expected):
            shown = "true" if expected is True else expected
            problem = f"{section}.{path}={value} is also set; set only one of them"
            raise ConfigError(f"loop.{name}", shown, problem)


def _loop_settings(backend: RoundBackend) -> Iterator[tuple[str, str, str]]:
    """The backend's section, and each setting of the loop with the equivalent native path.

    A backend that imitates others has the settings of all of them.
    """
    kinds: list[Any] = [type(backend)]
    if backend.stands_in:
        kinds += [k for k in choices_of("backend").values() if issubclass(k, RoundBackend)]
    for kind in kinds:
        for name, path in kind.loop_settings.items() if kind.section else ():
            yield kind.section, name, path


def _native(section: Mapping[str, Any], path: str) -> Any:
    """The value of a backend's native setting, or ``None`` if it is not given."""
    if path in section:
        return section[path]
    head, _, rest = path.partition(".")
    below = section.get(head)
    return _native(below, rest) if rest and isinstance(below, Mapping) else None


def _watched(trial: TrialConfig) -> tuple[str, str | None]:
    """The task and the metric that the loop watches. ``None`` means the task's only metric."""
    config, loop = trial.config, trial.config.loop
    task, metric = loop.task, loop.metric
    tasks = trial.eval_tasks(config.eval.tasks)
    if config.primary_metric and not (task and metric):
        primary_task = next(
            (
                name
                for name in (*tasks, config.task.name)
                if config.primary_metric.startswith(f"{name}/")
            ),
            None,
        )
        if primary_task and task in (None, primary_task):
            task = primary_task
            metric = metric or config.primary_metric.removeprefix(f"{primary_task}/")
    if task is None:
        task = config.task.name if config.task.name in tasks else tasks[0]
    return task, metric


def _recommended_lr(trial: TrialConfig) -> float:
    """The peak learning rate that tinker-cookbook recommends for the model."""
    model = trial.config.model
    name = model.tinker or model.hub or model.name
    return recommended_lr(name, "loop.use_recommended_lr")


def _wrapped(stage: Stage) -> dict[str, Any]:
    payload = stage.payload
    return {
        "about": {name: payload[name] for name in ("work", "version", "config")},
        "spec": {name: stage.spec[name] for name in ("target", "fields", "label")},
    }
