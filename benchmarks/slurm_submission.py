"""What handing in N dry trials of two stages in two resource classes takes: ``slurm_submission.py
mosweep|submitit N``.

Prints ``{"cpu": seconds, "arrays": [...]}``; imports of submitit are part of either, composing and
planning the sweep of neither.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def nothing(number: int) -> int:
    return number


def submitit(trials: int) -> list[str]:
    """Four arrays of no-ops, the second two behind the first two."""
    from submitit import AutoExecutor

    arrays = []
    for memory in ("100M", "150M"):
        common = {
            "slurm_partition": "cpu",
            "slurm_array_parallelism": 256,
            "cpus_per_task": 1,
            "timeout_min": 60,
            "slurm_use_srun": False,
        }
        executor = AutoExecutor(folder="submitit/%A")
        executor.update_parameters(
            name="first", slurm_additional_parameters={"mem": memory}, **common
        )
        first = executor.map_array(nothing, range(trials // 2))[0].job_id.split("_")[0]
        executor = AutoExecutor(folder="submitit/%A")
        behind = {"mem": memory, "dependency": f"aftercorr:{first}", "kill-on-invalid-dep": "yes"}
        executor.update_parameters(name="second", slurm_additional_parameters=behind, **common)
        second = executor.map_array(nothing, range(trials // 2))[0].job_id.split("_")[0]
        arrays += [first, second]
    return arrays


def mosweep(trials: int) -> Callable[[], list[str]]:
    from mosweep.core.events import Recorder
    from mosweep.design.application import planned
    from mosweep.execution.launch import store_of
    from mosweep.launchers.slurm.options import Slurm
    from mosweep.launchers.slurm.submissions import Submissions
    from mosweep.sweep.folder import Sweep
    from mosweep.sweep.plan import make_plan
    from mosweep.sweep.writing import freeze

    memory = ["resources.models.tiny.mem=100M", "resources.models.tiny-wide.mem=150M"]
    seeds = f"seed=range({trials // 2})"
    composed, config = planned(
        ["backend=dummy", "model=tiny,tiny-wide", seeds, "run_control_trials=false", *memory]
    )
    store, sweep = store_of(config), Sweep(Path("multirun/bench").absolute())
    freeze(sweep, composed, store, {})
    plan = make_plan(composed, store)
    plan.trial_of  # noqa: B018 - part of planning

    def submit() -> list[str]:
        Slurm(partition="cpu", cpus_per_task=1, wait=False).run(
            plan, store, Recorder(), sweep.folder
        )
        found = Submissions(store.root / "slurm").open().values()
        return [
            array
            for submission in found
            if submission.read_answer() is not None and (array := submission.array)
        ]

    return submit


def main() -> None:
    who, trials = sys.argv[1], int(sys.argv[2])
    os.environ["MOSWEEP_HOME"] = str(Path(".mosweep").absolute())
    with contextlib.redirect_stdout(io.StringIO()):
        submit = mosweep(trials) if who == "mosweep" else lambda: submitit(trials)
        before = cpu()
        arrays = submit()
        used = cpu() - before
    print(json.dumps({"cpu": used, "arrays": arrays}))


if __name__ == "__main__":
    main()
