"""A sweep as recorders see it, without running one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.fingerprint import fingerprint
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.work import Kind

#: When the pretended sweep began, in seconds.
BEGIN = 1_760_000_000.0


def stage(
    folder: Path,
    label: str,
    what: Any,
    facts: Mapping[str, Any],
    needs: Mapping[str, str] | None = None,
    error: str | None = None,
) -> StageResult:
    """A finished stage, identified by ``what``; or one that failed with ``error``."""
    kind = label.partition(":")[0]
    key = fingerprint([label, what])
    if error:
        return StageResult(
            label,
            Kind.of(kind),
            key,
            "failed",
            needs or {},
            error=error,
            log=folder / key / "log.txt",
        )
    began = BEGIN + 60.0 * ("model", "data", "finetune", "eval").index(kind)
    record = {
        "key": key,
        "kind": kind,
        "facts": facts,
        "artifact_digest": fingerprint(facts),
        "started": began,
        "finished": began + 30.0,
    }
    return StageResult(
        label,
        Kind.of(kind),
        key,
        "succeeded",
        needs or {},
        record=record,
        folder=folder / "store" / key,
    )


def build(
    folder: Path,
    models: Sequence[str] = ("tiny",),
    ranks: Sequence[int] = (4, 64),
    tasks: Sequence[str] = ("capitalization", "reversal"),
    fail: Sequence[int] = (),
    dummy: bool = False,
    shift: float = 0.0,
) -> SweepResult:
    """Control trials and model × rank trials, each evaluated on all ``tasks``; the ranks in
    ``fail`` fail while fine-tuning.
    """
    mark = {"dummy": True} if dummy else {}
    trials = []
    for model in models:
        base = stage(folder, "model", model, {"name": model, **mark})
        data = stage(
            folder,
            "data",
            "words",
            {"name": "words", "folder": "data", "digest": "d1" * 32, "rows": 1000, **mark},
        )

        def evals(tuned: StageResult, score: float, data: StageResult = data) -> list[StageResult]:
            needs = {"model": tuned.key, "data": data.key}
            facts = [
                {
                    "task": t,
                    "model_id": "local/model",
                    "metrics": {"accuracy": score + i / 10, "stderr": 0.01},
                    "n": 100,
                    **mark,
                }
                for i, t in enumerate(tasks)
            ]
            return [stage(folder, f"eval:{f['task']}", [tuned.key, score], f, needs) for f in facts]

        def trial(
            name: str, factors: Mapping[str, Any], control: bool, stages: Sequence[StageResult]
        ) -> None:
            place = folder / name
            place.mkdir(parents=True, exist_ok=True)
            (place / "config.yaml").write_text(f"name: {name}\n")
            trials.append(
                TrialResult(
                    name,
                    fingerprint([s.key for s in stages]),
                    factors,
                    control,
                    tuple(stages),
                    place,
                )
            )

        trial(
            f"model={model},control",
            {"model": model},
            True,
            [base, data, *evals(base, 0.125 + shift)],
        )
        for rank in ranks:
            needs = {"model": base.key, "data": data.key}
            loss = [[step, 2.0 / (step + 1)] for step in range(5)]
            curves = {"chosen_reward": [[step, step / 8] for step in range(5)]}
            facts = {"model_id": f"local/{model}-{rank}", "loss": loss, "curves": curves, **mark}
            error = "out of memory" if rank in fail else None
            tuned = stage(folder, "finetune", [model, rank], facts, needs, error)
            score = 0.25 + rank / 1000 + shift
            stages = [base, data, tuned, *([] if error else evals(tuned, score))]
            trial(
                f"model={model},lora.rank={rank}",
                {"model": model, "lora.rank": rank},
                False,
                stages,
            )
    (folder / "experiment.yaml").write_text("treatments: {}\n")
    return SweepResult("letters", folder, tuple(trials), {"treatments": {"lora.rank": list(ranks)}})


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., SweepResult]:
    """Builds sweeps in one folder."""
    folder = tmp_path / "multirun" / "letters"
    return lambda **options: build(folder, **options)
