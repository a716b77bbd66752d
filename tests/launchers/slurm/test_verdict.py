"""What the end of a job means for its stage, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mosweep.launchers.slurm.answers import Job
from mosweep.launchers.slurm.verdict import (
    LOST,
    Facts,
    Verdict,
    final_state,
    is_out_of_memory,
    is_stuck,
    judge,
)

FACTS = Facts(printed="", tried=(), retries=2, max_timeouts=1, may_grow=False, broken=False)


def ended(state: str, reason: str = "", exit_code: str = "", by: str = "") -> Job:
    return Job("7_1", state, reason, "n1", exit_code=exit_code, by=by)


@pytest.mark.parametrize("state", sorted(LOST))
def test_a_lost_job_is_submitted_again_so_many_times(state: str) -> None:
    assert judge(ended(state), FACTS).again
    assert judge(ended(state), replace(FACTS, tried=("NODE_FAIL", "TIMEOUT"))).again
    last = judge(ended(state), replace(FACTS, tried=("NODE_FAIL", "GONE")))
    assert last == Verdict(state, error=f"{state} on n1, 3 times")


def test_time_limits_and_memory_have_counts_of_their_own() -> None:
    assert judge(ended("TIMEOUT"), FACTS).again
    assert not judge(ended("TIMEOUT"), replace(FACTS, tried=("TIMEOUT",))).again
    assert judge(ended("TIMEOUT"), replace(FACTS, tried=("NODE_FAIL",) * 9)).again
    assert judge(ended("OUT_OF_MEMORY"), replace(FACTS, may_grow=True)).again
    assert "max_mem_gb" in judge(ended("OUT_OF_MEMORY"), FACTS).error


def test_a_failed_job_that_printed_of_memory_ran_out_of_it() -> None:
    printed = "slurmstepd: error: Detected 1 oom_kill event"
    facts = replace(FACTS, printed=printed, may_grow=True)
    assert judge(ended("FAILED"), facts) == Verdict("OUT_OF_MEMORY", again=True)
    assert judge(ended("COMPLETED"), facts).state == "COMPLETED"
    assert not is_out_of_memory("CUDA out of memory. Tried to allocate 2 GiB")


def test_who_cancelled_decides() -> None:
    assert judge(ended("CANCELLED", by="4711"), FACTS) == Verdict(
        "CANCELLED", error="cancelled by 4711", cancelled=True
    )
    assert judge(ended("CANCELLED", reason="DependencyNeverSatisfied"), FACTS).leave
    assert judge(ended("CANCELLED"), replace(FACTS, broken=True)).leave


def test_what_ended_without_a_result_has_failed() -> None:
    assert "is a disk full?" in judge(ended("COMPLETED"), FACTS).error
    died = judge(ended("FAILED", exit_code="1:0"), FACTS)
    assert died.error == "its process on n1 died, exit status 1:0"


def test_the_accounting_is_waited_for_and_names_who_cancelled() -> None:
    said, running = ended("CANCELLED"), ended("RUNNING")

    def final(
        said: Job | None, accounted: Job | None, waited: bool = False, patient: bool = True
    ) -> Job | None:
        return final_state("7_1", said, accounted, waited=waited, behind=["6_1"], patient=patient)

    assert final(None, running) is None
    assert final(None, running, patient=False) == Job("7_1", "LOST")
    assert final(None, None, waited=True) == Job("7_1", "CANCELLED")
    assert final(None, None) == Job("7_1", "LOST")
    by_user = final(said, ended("CANCELLED", by="4711"))
    assert by_user is not None and by_user.by == "4711" and by_user.reason == ""
    in_vain = final(None, ended("CANCELLED"))
    assert in_vain is not None and in_vain.reason == "Dependency"


def test_some_reasons_to_wait_need_somebody_to_change_something() -> None:
    assert is_stuck("PartitionTimeLimit") and is_stuck("QOSMaxWallDurationPerJobLimit")
    assert not is_stuck("Resources") and not is_stuck("Dependency")
