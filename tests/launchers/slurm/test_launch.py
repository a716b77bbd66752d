"""A launch on Slurm: what is handed in, what goes in again, what is asked; on a made-up cluster
that does not lie (``simulation.py``).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.launchers.slurm.simulation import (
    Clock,
    Cluster,
    Commands,
    Element,
    Fate,
    Heard,
    Killed,
    Reply,
    Stubs,
    evaluated,
    limited,
    trials_of,
    tuned,
)

from mosweep.core.claims import Claim
from mosweep.core.errors import MosweepError
from mosweep.core.events import Notice, StageFailed, StageFinished, StageQueued, StageStarted
from mosweep.core.store import Store
from mosweep.core.types import Stage, Trial
from mosweep.launchers.base import Outcome
from mosweep.launchers.slurm import follow, jobs, launch, spare, submissions, submit
from mosweep.launchers.slurm.options import Slurm
from mosweep.sweep.plan import make_plan


class Interrupted(Commands):
    """Honest, but for what a test says: ``instead`` may answer in place of the cluster."""

    instead: Callable[[str, list[str]], Reply | None] = staticmethod(lambda command, words: None)

    def answer(self, command: str, words: list[str]) -> Reply | None:
        return self.instead(command, words) or super().answer(command, words)


@dataclass
class Site:
    """A store and a cluster. ``fates`` are what becomes of a stage's jobs, one after the other, by
    label; then they succeed.
    """

    folder: Path
    clock: Clock
    stubs: Stubs
    fates: dict[str, list[Fate]] = field(default_factory=dict)
    dies_at: float = float("inf")

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store")
        self.cluster = Cluster(self.clock, self.store, self.fate)
        self.commands = Interrupted(self.cluster)
        self.stubs.slurm = self.commands
        self.clock.advance = self.advance
        self.heard = Heard(self.cluster.tell)

    def fate(self, element: Element) -> Fate:
        coming = self.fates.get(element.label)
        return coming.pop(0) if coming else Fate()

    def advance(self, to: float) -> None:
        if to > self.dies_at:
            raise Killed
        assert to < 50_000, "it hangs"
        self.cluster.advance(to)

    def launch(self, trials: Sequence[Trial], **options: Any) -> Outcome:
        self.heard = Heard(self.cluster.tell)
        plan = make_plan(trials, self.store)
        outcome = launch.Launch(
            Slurm(**options), plan, self.store, self.heard, self.folder / "sweep"
        ).run()
        assert not self.cluster.violations, self.cluster.violations
        return outcome

    def killed_at(self, seconds: float, trials: Sequence[Trial], **options: Any) -> None:
        self.dies_at = self.clock.now + seconds
        with pytest.raises(Killed):
            self.launch(trials, **options)
        self.dies_at = float("inf")

    def jobs(self, stage: Stage) -> list[Element]:
        return self.cluster.of(stage.key)

    def told(self, text: str) -> list[str]:
        return [event.text for event in self.heard.of(Notice) if text in event.text]

    def record(self, stage: Stage) -> Mapping[str, Any]:
        record = self.store.read(stage.key, whole=True)
        assert record is not None
        return record.data

    def open_submissions(self) -> list[str]:
        return [path.name for path in (self.store.root / "slurm" / "open").glob("*")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    stubs, clock = Stubs(tmp_path / "commands"), Clock()
    monkeypatch.setenv("PATH", f"{stubs.bin}:{os.environ['PATH']}")
    for module in (launch, follow, jobs, spare, submit, submissions):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(launch, "POLL_S", 1.0)
    site = Site(tmp_path, clock, stubs)
    with limited(120):
        yield site
    stubs.close()
    assert stubs.error is None


def grid(number: int, task: str = "task") -> list[Trial]:
    models = [tuned(f"m{n}") for n in range(number)]
    return trials_of(*([model, evaluated(model, task)] for model in models))


# -- handing in ------------------------------------------------------------------------------------


def test_a_sweep_is_one_array_per_kind_of_stage_and_each_eval_follows_its_own_fine_tune(
    site: Site,
) -> None:
    site.fates["finetune"] = [Fate(after_s=5 + 20 * n) for n in range(4)]
    trials = grid(4)
    assert site.launch(trials) == Outcome(
        finished={stage.key for trial in trials for stage in trial.stages}
    )
    assert site.commands.count("sbatch") == 2
    ends = {element.key: element.ended for element in site.cluster.elements.values()}
    first = trials[0].stages[1].key
    assert ends[first] < max(ends[trial.stages[0].key] for trial in trials)  # type: ignore[operator, type-var]
    assert {type(event) for event in site.heard.events} == {
        Notice,
        StageQueued,
        StageStarted,
        StageFinished,
    }
    assert site.open_submissions() == []


def test_no_array_is_larger_than_slurm_allows(site: Site) -> None:
    site.cluster.max_array_size = 3
    site.launch(trials_of(*([tuned(f"m{n}")] for n in range(7))))
    sizes = [
        sum(element.array == array for element in site.cluster.elements.values())
        for array in (1001, 1002, 1003)
    ]
    assert sorted(sizes) == [1, 3, 3]
    assert site.commands.count("scontrol") == 1


@pytest.mark.parametrize("limit", [1, 3])
def test_there_are_never_more_than_max_jobs(site: Site, limit: int) -> None:
    trials = grid(5)
    assert len(site.launch(trials, max_jobs=limit).finished) == 10
    assert site.cluster.most_alive == limit


def test_slurms_own_limit_is_found_out(site: Site) -> None:
    site.cluster.submit_limit = 7
    assert len(site.launch(grid(20)).finished) == 40
    assert len(site.told("Slurm accepts no more jobs now")) == 1
    assert site.cluster.most_alive == 7
    assert site.commands.count("sbatch") < 80
    kept = list((site.store.root / "slurm").glob("*-*"))
    assert len(kept) == len({element.array for element in site.cluster.elements.values()}), (
        "what was not taken leaves nothing"
    )


def test_what_slurm_refuses_fails_and_the_rest_goes_on(site: Site) -> None:
    refused = Reply(err="sbatch: error: Batch job submission failed: Invalid account\n", status=1)
    site.commands.instead = lambda command, words: (
        refused if command == "sbatch" and "eval-b" in words[-1] else None
    )
    model = tuned("m")
    a, b = evaluated(model, "a"), evaluated(model, "b")
    outcome = site.launch(trials_of([model, a, b]))
    assert outcome.finished == {model.key, a.key}
    assert outcome.failed == {b.key: "Slurm refuses the job: Invalid account"}


def test_without_waiting_it_returns_when_all_is_handed_in(site: Site) -> None:
    trials = grid(3)
    for _ in "twice":
        outcome = site.launch(trials, wait=False)
        assert outcome == Outcome(detached=True)
        assert site.clock.now < 1002
        assert site.commands.count("sbatch") == 2
    site.cluster.advance(site.clock.now + 5)
    assert site.launch(trials).finished == {stage.key for trial in trials for stage in trial.stages}
    assert site.commands.count("sbatch") == 2
    assert site.open_submissions() == []


def test_without_waiting_a_lost_answer_is_waited_for(site: Site) -> None:
    site.commands.instead = lost_once(site)
    site.launch(grid(2), wait=False)
    assert len(site.cluster.elements) == 4
    assert site.commands.count("sbatch") == 2


def test_what_another_process_is_at_is_left_to_it(site: Site) -> None:
    model = tuned("m")
    claim = site.store.claims.acquire(model.key)
    assert isinstance(claim, Claim)
    site.cluster.later(30, lambda: site.store.claims.release(claim))
    assert site.launch(trials_of([model])).finished == {model.key}
    assert site.jobs(model)[0].submitted >= 1030
    assert site.commands.count("scontrol") == 1


def lost_once(site: Site) -> Callable[[str, list[str]], Reply | None]:
    """The first sbatch gets through, and its answer does not."""

    def answer(command: str, words: list[str]) -> Reply | None:
        if command == "sbatch" and not site.cluster.elements:
            site.cluster.accept(Path(words[-1]))
            return Reply(
                err="sbatch: error: Batch job submission failed: Socket timed out on send/recv "
                "operation\n",
                status=1,
            )
        return None

    return answer


def test_what_others_have_found_never_to_have_reached_slurm_is_submitted_again(site: Site) -> None:
    lost = Reply(
        err="sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n",
        status=1,
    )
    site.commands.instead = lambda command, words: (
        lost if command == "sbatch" and site.clock.now < 1001 else None
    )

    def void() -> None:
        everything = submissions.Submissions(site.store.root / "slurm")
        for submission in everything.open().values():
            everything.close(submission, void=True)

    site.cluster.later(15, void)
    assert len(site.launch(grid(2)).finished) == 4


def test_an_sbatch_that_hangs_is_not_waited_for_for_ever(site: Site) -> None:
    trials = grid(1)
    site.commands.instead = lambda command, words: Reply(status=1) if command == "sbatch" else None
    site.killed_at(5, trials)
    (answer,) = (site.store.root / "slurm").glob("*/answer")
    with open(answer) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(
            MosweepError,
            match=r"has not answered for 2 min \(the sbatch of mosweep.finetune-\w+ has not ended "
            r"yet\)",
        ):
            site.launch(trials, patience_min=2)


# -- what goes in again ----------------------------------------------------------------------------


def test_out_of_memory_gets_more_up_to_the_limit_and_the_record_says_so(site: Site) -> None:
    site.fates["finetune"] = [Fate("OUT_OF_MEMORY"), Fate("OUT_OF_MEMORY")]
    model = tuned("m", mem_gb=4)
    evaluation = evaluated(model)
    assert site.launch(trials_of([model, evaluation]), max_mem_gb=10).finished == {
        model.key,
        evaluation.key,
    }
    assert [element.parameters["mem"] for element in site.jobs(model)] == [
        "4096M",
        "8192M",
        "10240M",
    ]
    record = site.record(model)
    assert record["resources"] == {"mem_gb": 10}
    assert [(tried["job"], tried["state"]) for tried in record["tries"]] == [
        ("1001_0", "OUT_OF_MEMORY"),
        ("1003_0", "OUT_OF_MEMORY"),
    ]
    assert "tries" not in site.record(evaluation)
    assert site.cluster.executed == {model.key: 1, evaluation.key: 1}


def test_out_of_memory_at_the_limit_is_a_failure(site: Site) -> None:
    site.fates["finetune"] = [Fate("OUT_OF_MEMORY")] * 3
    model = tuned("m", mem_gb=4)
    outcome = site.launch(trials_of([model, evaluated(model)]), max_mem_gb=8)
    assert "OUT_OF_MEMORY on n" in outcome.failed[model.key]
    assert outcome.failed[evaluated(model).key] == "not run: finetune failed"
    assert len(site.jobs(model)) == 2
    assert site.cluster.living() == []


def test_who_needs_more_memory_goes_in_apart_from_who_does_not(site: Site) -> None:
    site.fates["finetune"] = [Fate("NODE_FAIL"), Fate("OUT_OF_MEMORY")]
    models = [tuned("m0", mem_gb=4), tuned("m1", mem_gb=4)]
    site.launch(trials_of(*([model] for model in models)), max_mem_gb=64)
    assert [[element.parameters["mem"] for element in site.jobs(model)] for model in models] == [
        ["4096M", "4096M"],
        ["4096M", "8192M"],
    ]


def test_running_into_the_time_limit_is_allowed_so_many_times(site: Site) -> None:
    site.fates["finetune"] = [Fate("TIMEOUT")] * 9
    model = tuned("m")
    outcome = site.launch(trials_of([model]), max_num_timeout=2)
    assert outcome.failed.keys() == {model.key}
    assert "TIMEOUT" in outcome.failed[model.key] and "3 times" in outcome.failed[model.key]
    assert len(site.jobs(model)) == 3


@pytest.mark.parametrize("how", ["NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "zombie"])
def test_a_lost_job_goes_in_again_and_what_waits_for_it_behind_it(site: Site, how: str) -> None:
    site.fates["finetune"] = [Fate(how), Fate(after_s=60)]
    model = tuned("m")
    evaluation = evaluated(model)
    assert site.launch(trials_of([model, evaluation])).finished == {model.key, evaluation.key}
    _, new = site.jobs(model)
    assert [element.state for element in site.jobs(evaluation)] == ["CANCELLED", "COMPLETED"]
    assert list(site.jobs(evaluation)[-1].after) == [(new.array, 0)]
    assert [tried["state"] for tried in site.record(model)["tries"]] == [
        "GONE" if how == "zombie" else how
    ]
    assert len(site.told("it is submitted again")) == 1
    assert site.open_submissions() == []


def test_a_job_that_slurm_has_lost_sight_of_is_cancelled_before_it_goes_in_again(
    site: Site,
) -> None:
    model = tuned("m")
    site.fates["finetune"] = [Fate(after_s=500)]
    site.commands.instead = lambda command, words: (
        Reply("\n") if command in ("squeue", "sacct") and 1010 < site.clock.now < 1045 else None
    )
    assert site.launch(trials_of([model])).finished == {model.key}
    assert [element.state for element in site.jobs(model)] == ["CANCELLED", "COMPLETED"]
    assert [tried["state"] for tried in site.record(model)["tries"]] == ["LOST"]


def test_what_slurm_once_called_ended_it_may_forget(site: Site) -> None:
    model = tuned("m")
    site.cluster.min_job_age = 3.0
    site.fates["finetune"] = [Fate("FAILED")]
    disabled = Reply(err="Slurm accounting storage is disabled\n", status=1)
    site.commands.instead = lambda command, words: disabled if command == "sacct" else None
    assert re.fullmatch(
        r"its process on n\d died", site.launch(trials_of([model])).failed[model.key]
    )
    assert len(site.jobs(model)) == 1


def test_one_answer_that_makes_no_sense_is_no_end(site: Site) -> None:
    """For some seconds Slurm does not show the job, then it calls it failed, once."""
    model = tuned("m")
    site.fates["finetune"] = [Fate(after_s=60)]
    said = iter(["FAILED"])

    def answer(command: str, words: list[str]) -> Reply | None:
        if command == "squeue" and 1010 < site.clock.now < 1016:
            return Reply("\n")
        if command == "squeue" and site.clock.now > 1016 and (state := next(said, None)):
            rows = [{**row, "T": state} for row in site.commands.queue_rows()]
            return Reply(site.commands.told(words, rows))
        return None

    site.commands.instead = answer
    assert site.launch(trials_of([model])).finished == {model.key}
    assert len(site.jobs(model)) == 1


def test_lost_jobs_are_bounded(site: Site) -> None:
    site.fates["finetune"] = [Fate("NODE_FAIL"), Fate("PREEMPTED"), Fate("zombie"), Fate()]
    model = tuned("m")
    assert re.fullmatch(
        r"GONE on n\d, 3 times", site.launch(trials_of([model]), retries=2).failed[model.key]
    )
    assert site.cluster.living() == []


def test_a_requeued_job_is_left_alone(site: Site) -> None:
    site.fates["finetune"] = [Fate("requeue"), Fate(after_s=30)]
    model = tuned("m")
    assert site.launch(trials_of([model, evaluated(model)])).finished == {
        model.key,
        evaluated(model).key,
    }
    assert site.commands.count("sbatch") == 2
    assert site.commands.count("scancel") == 0


@pytest.mark.parametrize("when", ["running", "waiting"])
def test_what_the_user_cancels_is_not_submitted_again(site: Site, when: str) -> None:
    model, other = tuned("m"), tuned("other")
    if when == "running":
        site.fates["finetune"] = [Fate("CANCELLED"), Fate()]
    else:
        site.fates["finetune"] = [Fate(queue_s=500), Fate()]
        site.cluster.later(60, lambda: site.cluster.cancel(site.jobs(model)[0]))
    outcome = site.launch(trials_of([model, evaluated(model)], [other]))
    assert outcome.finished == {other.key}
    assert outcome.failed[model.key].startswith("cancelled")
    assert [event.cancelled for event in site.heard.of(StageFailed)] == [True]
    assert len(site.jobs(model)) == 1
    assert site.launch(trials_of([model, evaluated(model)])).finished == {
        model.key,
        evaluated(model).key,
    }, "unless asked to"


def test_a_stage_that_fails_is_not_tried_again_and_nothing_waits_for_it(site: Site) -> None:
    site.fates["finetune"] = [Fate("failure")]
    model = tuned("m")
    outcome = site.launch(trials_of([model, evaluated(model)]))
    assert outcome.failed[model.key] == "it went wrong"
    (event,) = site.heard.of(StageFailed)
    assert event.log.read_text() == "it went wrong\n"
    assert site.commands.count("sbatch") == 2
    assert site.open_submissions() == []


@pytest.mark.parametrize("end", ["NODE_FAIL", "success"])
@pytest.mark.parametrize("kind", ["satisfied", "refused", "never"])
def test_a_need_that_slurm_has_forgotten_does_no_harm(site: Site, kind: str, end: str) -> None:
    """A fine-tune ends and is forgotten while Slurm does not answer, and its eval is handed in
    behind it all the same.
    """
    site.cluster.unknown_parent, site.cluster.min_job_age = kind, 2.0
    site.fates["finetune"] = [Fate(end, after_s=5, record_late_s=15, mark_late_s=16)]
    model, other = tuned("m"), tuned("other")
    evaluation = evaluated(model)
    silent = Reply(
        err="squeue: error: Unable to contact slurm controller (connect failure)\n", status=1
    )
    site.commands.instead = lambda command, words: (
        silent if command == "squeue" and 1004 < site.clock.now < 1040 else None
    )
    assert site.launch(trials_of([model, evaluation], [other]), max_jobs=2).finished == {
        model.key,
        evaluation.key,
        other.key,
    }
    assert site.cluster.executed == {model.key: 1, evaluation.key: 1, other.key: 1}
    if kind != "refused":
        assert list(site.jobs(evaluation)[0].after) == [(1001, 0)]


# -- after a kill ----------------------------------------------------------------------------------


def test_a_new_launch_attaches_to_the_jobs_of_a_dead_one(site: Site) -> None:
    trials = grid(3)
    site.killed_at(6, trials)
    assert len(site.launch(trials).finished) == 6
    assert site.commands.count("sbatch") == 2
    assert site.told("6 jobs of this sweep are already in Slurm")


def test_the_latest_of_several_jobs_of_a_stage_counts(site: Site) -> None:
    """One element of an array was lost and is in Slurm again; the array still has living elements
    when the launcher dies.
    """
    site.fates["finetune"] = [Fate("NODE_FAIL", after_s=5), Fate(after_s=200), Fate(after_s=100)]
    models = [tuned("m0"), tuned("m1")]
    trials = trials_of(*([model] for model in models))
    site.killed_at(40, trials)
    assert len(site.jobs(models[0])) == 2
    assert site.launch(trials).finished == {model.key for model in models}
    assert len(site.cluster.elements) == 3
    assert [tried["state"] for tried in site.record(models[0])["tries"]] == ["NODE_FAIL"]
    assert not site.told("it is submitted again"), "that was said before"


def test_what_failed_before_goes_in_again_with_a_new_launch(site: Site) -> None:
    site.fates["finetune"] = [Fate("failure", after_s=2), Fate(after_s=100)]
    trials = grid(2)
    site.killed_at(8, trials)
    assert len(site.launch(trials).finished) == 4
    assert len(site.jobs(trials[0].stages[0])) == 2
    assert len(site.jobs(trials[1].stages[0])) == 1


# -- what Slurm is asked ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 40])
def test_one_query_at_a_time_however_many_trials(site: Site, number: int) -> None:
    site.fates["finetune"] = [Fate("CANCELLED", after_s=300), *[Fate(after_s=600)] * (number - 1)]
    site.launch(grid(number))
    for command in ("squeue", "sacct"):
        times = [when for when, called, _ in site.commands.calls if called == command]
        assert len(times) == len(set(times)), f"{command} was called twice at once"
    assert site.commands.count("sacct") == 1
    assert site.commands.count("squeue") < (site.clock.now - 1000) / 10 + 20


def test_a_controller_that_is_away_for_a_while_is_waited_for(site: Site) -> None:
    silent = Reply(
        err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        status=1,
    )
    site.fates["finetune"] = [Fate("NODE_FAIL", after_s=40)]
    site.commands.instead = lambda command, words: silent if 1005 < site.clock.now < 1305 else None
    assert len(site.launch(grid(2)).finished) == 4
    assert 2 <= len(site.told("Slurm has not answered")) <= 5
    assert site.told("Slurm is answering again")


def test_patience_ends_and_what_runs_is_left_alone(site: Site) -> None:
    silent = Reply(
        err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        status=1,
    )
    site.fates["finetune"] = [Fate(after_s=2000)]
    site.commands.instead = lambda command, words: silent if site.clock.now > 1005 else None
    trials = grid(1)
    with pytest.raises(
        MosweepError,
        match=r"Slurm has not answered for 10 min .*; its jobs continue, and the same "
        r"command "
        r"attaches",
    ):
        site.launch(trials, patience_min=10)
    assert 1605 < site.clock.now < 1630
    assert site.commands.count("scancel") == 0
    assert {element.state for element in site.cluster.elements.values()} == {"RUNNING", "PENDING"}
    site.commands.instead = lambda command, words: None
    assert len(site.launch(trials).finished) == 2
    assert site.commands.count("sbatch") == 2


def test_a_cancellation_that_does_not_get_through_is_tried_again(site: Site) -> None:
    """Its fine-tune is taken to be lost; the eval behind it must not be there twice."""
    silent = Reply(
        err="scancel: error: Kill job error on job id 1002: Socket timed out on send/recv "
        "operation\n",
        status=1,
    )
    site.fates["finetune"] = [Fate("NODE_FAIL", after_s=5)]
    site.cluster.kills_on_invalid = False
    site.commands.instead = lambda command, words: (
        silent if command == "scancel" and site.clock.now < 1100 else None
    )
    assert len(site.launch(grid(1)).finished) == 2
    assert site.clock.now > 1100


@pytest.mark.parametrize("later_s", [0.0, 60.0])
def test_results_that_were_removed_are_made_anew_though_their_jobs_said_that_they_were_done(
    site: Site, later_s: float
) -> None:
    trials = grid(3)
    site.launch(trials, wait=False)
    keys = [stage.key for trial in trials for stage in trial.stages]
    while not all(site.store.read(key) for key in keys):
        site.advance(site.clock.now + 1)
    site.advance(site.clock.now + later_s)
    for stage in (trial.stages[0] for trial in trials):
        site.store.forget(stage.key)
    assert site.launch(trials).finished == set(keys)
    assert [site.cluster.executed[trial.stages[0].key] for trial in trials] == [2, 2, 2]
