from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mosweep.core.errors import MosweepError, UserError
from mosweep.launchers.slurm.answers import Job
from mosweep.launchers.slurm.client import SlurmClient
from mosweep.launchers.slurm.errors import NoAccounting, SlurmFull, SlurmRefused, SlurmUnavailable
from mosweep.launchers.slurm.sbatch import read_answer

POLICY = (
    "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's "
    "size and/or time limits)"
)


@dataclass(frozen=True)
class Stubs:
    """A PATH with nothing on it but commands that answer as they are told."""

    folder: Path

    def __call__(
        self, command: str, out: str = "", err: str = "", status: int = 0, before: str = ""
    ) -> None:
        data = self.folder / command
        data.with_suffix(".out").write_text(out)
        data.with_suffix(".err").write_text(err)
        script = self.folder / "bin" / command
        script.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$*" >> {data}.calls\n/usr/bin/env > {data}.env\n{before}\n'
            f"/bin/cat {data}.out\n/bin/cat {data}.err >&2\nexit {status}\n"
        )
        script.chmod(0o755)

    def calls(self, command: str) -> list[str]:
        path = self.folder / f"{command}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def environment(self, command: str) -> dict[str, str]:
        lines = (self.folder / f"{command}.env").read_text().splitlines()
        return dict(line.partition("=")[::2] for line in lines)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    folder = tmp_path / "stubs"
    (folder / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    return Stubs(folder)


@pytest.fixture
def client() -> SlurmClient:
    return SlurmClient(timeout_s=20)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.1)


# -- submitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["4711\n", "4711;north\n", "Welcome to the cluster\n4711\n"])
def test_submit_returns_the_number_and_leaves_it_on_disk(
    stub: Stubs, client: SlurmClient, tmp_path: Path, out: str
) -> None:
    stub("sbatch", out)
    assert client.submit(tmp_path / "job.sh", tmp_path / "answer") == "4711"
    assert stub.calls("sbatch") == [f"--parsable {tmp_path}/job.sh"]
    assert (tmp_path / "answer").read_text() == out
    assert read_answer(tmp_path / "answer") == (False, "4711")


def test_the_job_gets_nothing_of_a_surrounding_job(
    stub: Stubs, client: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = (
        "SLURM_JOB_ID SLURM_MEM_PER_CPU SBATCH_PARTITION SUBMITIT_EXECUTOR RANK "
        "CUDA_VISIBLE_DEVICES"
    ).split()
    kept = {
        "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SLURM_JWT": "token",
        "HF_HOME": "/models",
        "LC_ALL": "de_DE.UTF-8",
    }
    for name, value in {**dict.fromkeys(dropped, "1"), **kept}.items():
        monkeypatch.setenv(name, value)
    stub("sbatch", "1\n")
    client.submit(tmp_path / "job.sh", tmp_path / "answer")
    seen = stub.environment("sbatch")
    assert {name: seen[name] for name in kept} == kept
    assert not seen.keys() & set(dropped)


def failure(
    stub: Stubs, client: SlurmClient, folder: Path, err: str, status: int = 1
) -> MosweepError:
    stub("sbatch", err=err, status=status)
    with pytest.raises(MosweepError) as raised:
        client.submit(folder / "job.sh", folder / "answer")
    return raised.value


@pytest.mark.parametrize(
    "text",
    [
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "Batch job submission failed: Connection refused",
        "Batch job submission failed: Connection reset by peer",
        "Batch job submission failed: Resource temporarily unavailable",
        "Batch job submission failed: Slurm backup controller in standby mode",
        "Batch job submission failed: I/O error writing script/environment to file",
        "Batch job submission failed: Protocol authentication error",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "If munged is up, restart with --num-threads=10\nsbatch: error: Munge encode failed: "
        'Failed to access "/run/munge/munge.socket.2"',
    ],
)
def test_a_controller_that_does_not_answer_is_silent(
    stub: Stubs, client: SlurmClient, tmp_path: Path, text: str
) -> None:
    error = failure(stub, client, tmp_path, f"sbatch: error: {text}\n")
    assert type(error) is SlurmUnavailable
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("status", "err"),
    [(137, ""), (0, ""), (0, "sbatch: error: write error: No space left on device\n")],
)
def test_no_number_and_no_reason_is_silence(
    stub: Stubs, client: SlurmClient, tmp_path: Path, status: int, err: str
) -> None:
    assert type(failure(stub, client, tmp_path, err, status)) is SlurmUnavailable


@pytest.mark.parametrize(
    "text",
    [
        f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}",
        f"AssocMaxSubmitJobLimit\nsbatch: error: {POLICY}",
        f"QOSGrpSubmitJobsLimit\nsbatch: error: {POLICY}",
        f"QOSMaxSubmitJobPerAccountLimit\nsbatch: error: {POLICY}",
        POLICY,
        "Reached maximum number of submitted jobs\nsbatch: error: Batch job submission failed: "
        "Unspecified error",
    ],
)
def test_the_submit_limit_means_full(
    stub: Stubs, client: SlurmClient, tmp_path: Path, text: str
) -> None:
    assert type(failure(stub, client, tmp_path, f"sbatch: error: {text}\n")) is SlurmFull


@pytest.mark.parametrize(
    ("err", "message"),
    [
        (
            "sbatch: error: invalid partition specified: nix\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: nix; Invalid partition name specified",
        ),
        (
            f"sbatch: error: QOSMaxCpuPerJobLimit\nsbatch: error: {POLICY}\n",
            "QOSMaxCpuPerJobLimit; Job violates accounting/QOS policy (job submit limit, user's "
            "size and/or time limits)",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition "
            "combination specified\n",
            "Invalid account or account/partition combination specified",
        ),
        (
            "sbatch: Charging to project x\nsbatch: error: Batch job submission failed: Invalid "
            "feature specification\n",
            "Invalid feature specification",
        ),
        (
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
            "sbatch: error: Batch job submission failed: Job dependency problem\n",
            "Slurm temporarily unable to accept job, sleeping and retrying; Job dependency problem",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n",
            "Memory specification can not be satisfied",
        ),
        (
            "sbatch: error: Unable to allocate resources: Invalid qos specification\n",
            "Unable to allocate resources: Invalid qos specification",
        ),
        (
            "sbatch: error: This does not look like a batch script.  The first\nsbatch: error: "
            "line must start with #!\n",
            "This does not look like a batch script. The first; line must start with #!",
        ),
        ("sbatch: unrecognized option '--nix'\nTry \"sbatch --help\" for more information\n", None),
        (
            "sbatch: error: Something that no version of Slurm says yet\n",
            "Something that no version of Slurm says yet",
        ),
    ],
)
def test_what_can_never_run_is_refused_in_sbatchs_words(
    stub: Stubs, client: SlurmClient, tmp_path: Path, err: str, message: str | None
) -> None:
    error = failure(stub, client, tmp_path, err)
    assert type(error) is SlurmRefused
    assert message in (None, str(error))
    assert "\n" not in str(error)


def test_sbatch_is_killed_when_it_takes_too_long(stub: Stubs, tmp_path: Path) -> None:
    stub("sbatch", "1\n", before="/bin/sleep 60")
    begun = time.monotonic()
    with pytest.raises(SlurmUnavailable, match=r"sbatch: no answer within 0\.3 s"):
        SlurmClient(timeout_s=0.3).submit(tmp_path / "job.sh", tmp_path / "answer")
    assert time.monotonic() - begun < 10
    until(lambda: read_answer(tmp_path / "answer") == (False, None))


def test_a_number_that_sbatch_wrote_counts_whatever_became_of_sbatch(
    stub: Stubs, tmp_path: Path
) -> None:
    stub("sbatch", before="echo 4711; /bin/sleep 60")
    assert SlurmClient(timeout_s=1).submit(tmp_path / "job.sh", tmp_path / "answer") == "4711"


def test_the_answer_is_locked_while_sbatch_lives_and_outlives_us(
    stub: Stubs, client: SlurmClient, tmp_path: Path
) -> None:
    go, answer = tmp_path / "go", tmp_path / "answer"
    stub("sbatch", "4711\n", before=f"while [ ! -e {go} ]; do /bin/sleep 0.05; done")
    code = (
        "import sys; from pathlib import Path; from mosweep.launchers.slurm.client import "
        "SlurmClient\n"
    )
    code += "SlurmClient().submit(Path('job.sh'), Path(sys.argv[1]))"
    driver = subprocess.Popen([sys.executable, "-c", code, str(answer)], cwd=tmp_path)
    until(lambda: bool(stub.calls("sbatch")))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert read_answer(answer) == (True, None)
    with pytest.raises(SlurmUnavailable, match="another sbatch is writing"):
        client.submit(tmp_path / "job.sh", answer)
    go.touch()
    until(lambda: not read_answer(answer)[0])
    assert read_answer(answer) == (False, "4711")


@pytest.mark.parametrize("text", ["", "47", "garbage\n", "47a\n"])
def test_half_an_answer_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "answer").write_text(text)
    assert read_answer(tmp_path / "answer") == (False, None)


def test_no_answer_file_is_no_answer(tmp_path: Path) -> None:
    assert read_answer(tmp_path / "answer") == (False, None)


def test_a_file_system_without_locks_will_do(
    stub: Stubs, client: SlurmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    stub("sbatch", "4711\n")
    assert client.submit(tmp_path / "job.sh", tmp_path / "answer") == "4711"
    assert read_answer(tmp_path / "answer") == (False, "4711")


def test_asking_whether_a_job_would_be_taken(stub: Stubs, client: SlurmClient) -> None:
    stub(
        "srun",
        err="srun: Job 5 to start at 2026-11-21T13:05:20 using 1 processors on nodes n1 in "
        "partition "
        "p\n",
    )
    client.test({"partition": "p", "exclusive": True, "cpus-per-task": 2})
    assert stub.calls("srun") == ["--test-only --partition=p --exclusive --cpus-per-task=2 true"]
    stub(
        "srun",
        err="srun: error: invalid partition specified: p\nallocation failure: Invalid partition "
        "name "
        "specified\n",
        status=1,
    )
    with pytest.raises(
        SlurmRefused, match=r"^invalid partition specified: p; Invalid partition name specified$"
    ):
        client.test({"partition": "p"})
    stub(
        "srun",
        err=f"srun: error: QOSMaxSubmitJobPerUserLimit\nallocation failure: {POLICY[29:]}\n",
        status=1,
    )
    client.test({})
    stub("srun", err="allocation failure: Socket timed out on send/recv operation\n", status=1)
    with pytest.raises(SlurmUnavailable):
        client.test({})
    stub(
        "srun",
        err="srun: unrecognized option '--array=1'\nTry \"srun --help\" for more information\n",
        status=1,
    )
    client.test({"array": 1})


def test_more_than_any_node_has_is_refused_unless_nodes_are_down(
    stub: Stubs, client: SlurmClient
) -> None:
    stub(
        "srun",
        err="srun: error: Unable to allocate resources: Requested node configuration is not "
        "available\n",
        status=1,
    )
    stub("sinfo", "")
    with pytest.raises(SlurmRefused, match="Requested node configuration is not available"):
        client.test({"mem": "9T"})
    stub("sinfo", "n7\n")
    client.test({"mem": "9T"})


# -- asking ----------------------------------------------------------------------------------------


def test_the_queue_by_id(stub: Stubs, client: SlurmClient) -> None:
    stub(
        "squeue",
        "7|1|RUNNING|cpu1|1-02:03:04|2026-11-21T12:46:17|None\n"
        "7|2|PENDING||0:00|2026-11-22T00:00:00|(Resources, as | they say)\n"
        "8|N/A|CANCELLED||0:00|2026-11-21T12:48:59|DependencyNeverSatisfied\n"
        "9|4-5,8%2|PENDING||0:00|N/A|JobHeldUser\n"
        "11|0-6:3|PENDING||0:00|N/A|JobHeldUser\n"
        "6|N/A|RUNNING|cpu2|INVALID|N/A|None\n",
    )
    assert client.queue(["7", "8", "9", "10", "11"]) == {
        "7_1": Job("7_1", "RUNNING", node="cpu1", elapsed_s=93784, started=1795265177),
        "7_2": Job("7_2", "PENDING", reason="(Resources, as | they say)", elapsed_s=0),
        "8": Job("8", "CANCELLED", reason="DependencyNeverSatisfied", elapsed_s=0),
        **{
            id: Job(id, "PENDING", reason="JobHeldUser", elapsed_s=0)
            for id in ("9_4", "9_5", "9_8", "11_0", "11_3", "11_6")
        },
    }
    assert len(stub.calls("squeue")) == 1
    assert f"-t all -u {os.getuid()}" in stub.calls("squeue")[0]


def test_the_same_answer_wherever_we_are(
    stub: Stubs, client: SlurmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "TZ": "Asia/Tokyo",
        "LC_ALL": "de_DE",
        "SQUEUE_STATES": "PD",
        "SLURM_TIME_FORMAT": "%c",
        "SLURM_CONF": "/c",
    }.items():
        monkeypatch.setenv(name, value)
    stub("squeue", "7|N/A|RUNNING|cpu1|0:05|2026-11-21T12:46:17|None\n")
    assert client.queue(["7"])["7"].started == 1795265177
    seen = stub.environment("squeue")
    assert (seen["LC_ALL"], seen["TZ"], seen["SLURM_BITSTR_LEN"], seen["SLURM_CONF"]) == (
        "C",
        "UTC",
        "0",
        "/c",
    )
    assert not seen.keys() & {"SQUEUE_STATES", "SLURM_TIME_FORMAT"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00", 0),
        ("1:05", 65),
        ("01:00:05", 3605),
        ("2-00:00:01", 172801),
        ("42", 42),
        ("INVALID", None),
        ("", None),
        ("UNLIMITED", None),
    ],
)
def test_elapsed_times(stub: Stubs, client: SlurmClient, text: str, seconds: float | None) -> None:
    stub("squeue", f"7|N/A|RUNNING|n1|{text}|N/A|None\n")
    assert client.queue(["7"])["7"].elapsed_s == seconds


def test_lines_that_make_no_sense_are_skipped(stub: Stubs, client: SlurmClient) -> None:
    good = "7|1|NEW_STATE|n1|0:01|2026-11-21T12:46:17|None\n"
    bad = [
        "",
        "|||||||",
        "slurm: hello",
        "7|2|RUNN",
        "7|x|RUNNING|n1|0:01|N/A|None",
        "7|[1-2|RUNNING||x|y|z",
        "7|[0-99999999999]|PENDING||||",
    ]
    bad += ["7|3||n1|0:01|N/A|", "\0", "7_1|RUNNING|RUNNING|RUNNING|RUNNING|RUNNING|RUNNING"]
    stub("squeue", "\n".join([*bad, good]))
    jobs = client.queue(["7"])
    assert jobs.pop("7_1") == Job("7_1", "NEW_STATE", node="n1", elapsed_s=1, started=1795265177)
    assert all(job.started is None for job in jobs.values())
    assert not jobs.keys() - {"7_2"}
    stub(
        "sacct",
        "\n7_4|FAILED\n7_|||||||\n7_[1...|PENDING|0:0||||\n7_5||0:0|n1|00:00:01|x|y\n7_6|FAILED|0:9|n1|00:00:01|x|y\n7_7|FAI",
    )
    assert client.accounting(["7"]) == {
        "7_6": Job("7_6", "FAILED", node="n1", elapsed_s=1, exit_code="0:9")
    }


@pytest.mark.parametrize(
    "state", ["PENDING", "COMPLETING", "REQUEUE_HOLD", "COMPLETED", "NODE_FAIL", "NEW_STATE"]
)
def test_live_states(state: str) -> None:
    assert Job("1", state).alive == (state in ("PENDING", "COMPLETING", "REQUEUE_HOLD"))


def test_nothing_is_asked_about_nothing(stub: Stubs, client: SlurmClient) -> None:
    assert (client.queue([]), client.accounting([])) == ({}, {})
    client.cancel([])


def test_accounting_by_id(stub: Stubs, client: SlurmClient) -> None:
    stub(
        "sacct",
        "7_1|FAILED|0:9|n1|00:00:02|2026-11-21T12:46:17|2026-11-21T12:46:19\n"
        "7_1.batch|CANCELLED by 0|0:9|n1|00:00:02|2026-11-21T12:46:17|2026-11-21T12:46:19\n"
        "7_3|CANCELLED by 501|0:0|None assigned|00:00:00|None|2026-11-21T12:46:19\n"
        "7_[3-4,6,10-14:2%2]|PENDING|0:0|None assigned|00:00:00|Unknown|Unknown\n"
        "8|CANCELLED+|0:0|None assigned|00:00:00|Unknown|Unknown\n"
        "80|RUNNING|0:0|n1|00:00:02|2026-11-21T12:46:17|Unknown\n",
    )
    pending = {
        f"7_{index}": Job(f"7_{index}", "PENDING", elapsed_s=0, exit_code="0:0")
        for index in (4, 6, 10, 12, 14)
    }
    assert client.accounting(["7", "8", "9"]) == {
        "7_1": Job("7_1", "FAILED", node="n1", elapsed_s=2, started=1795265177, exit_code="0:9"),
        "7_3": Job("7_3", "CANCELLED", elapsed_s=0, exit_code="0:0", by="501"),
        "8": Job("8", "CANCELLED", elapsed_s=0, exit_code="0:0"),
        **pending,
    }
    assert stub.calls("sacct") == [
        "-n -P -j 7,8,9 -o JobID,State,ExitCode,NodeList,Elapsed,Start,End"
    ]


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("FAILED", "OUT_OF_MEMORY"),
        ("CANCELLED", "OUT_OF_MEMORY"),
        ("CANCELLED by 501", "CANCELLED"),
        ("COMPLETED", "COMPLETED"),
    ],
)
def test_a_step_that_ran_out_of_memory(
    stub: Stubs, client: SlurmClient, state: str, shown: str
) -> None:
    rest = "n1|00:00:02|2026-11-21T12:46:17|2026-11-21T12:46:19\n"
    stub(
        "sacct",
        f"7_1|{state}|9:0|{rest}7_1.batch|FAILED|9:0|{rest}7_1.0|OUT_OF_MEMORY|0:125|{rest}",
    )
    assert client.accounting(["7"])["7_1"].state == shown


def test_any_number_of_ids_is_one_call(stub: Stubs, client: SlurmClient) -> None:
    stub("squeue")
    stub("sacct")
    ids = [str(id) for id in range(10_000_000, 10_030_000)]
    client.queue(ids)
    client.accounting(ids)
    assert (len(stub.calls("squeue")), len(stub.calls("sacct"))) == (1, 1)


def test_no_accounting(stub: Stubs, client: SlurmClient) -> None:
    with pytest.raises(NoAccounting, match="not on the PATH"):
        client.accounting(["7"])
    stub("sacct", err="Slurm accounting storage is disabled\n", status=1)
    with pytest.raises(NoAccounting, match="disabled"):
        client.accounting(["7"])


@pytest.mark.parametrize("status", [0, 1])
def test_a_silent_database(stub: Stubs, client: SlurmClient, status: int) -> None:
    stub(
        "sacct",
        err="sacct: error: Problem talking to the database: Connection refused\n",
        status=status,
    )
    with pytest.raises(
        SlurmUnavailable, match=r"^sacct: Problem talking to the database: Connection refused$"
    ):
        client.accounting(["7"])


@pytest.mark.parametrize("command", ["squeue", "scontrol", "sinfo", "scancel", "sacct"])
def test_a_silent_controller(stub: Stubs, client: SlurmClient, command: str) -> None:
    asks: dict[str, Callable[[SlurmClient], object]] = {
        "squeue": lambda client: client.queue(["7"]),
        "scontrol": lambda client: client.max_array_size(),
        "sinfo": lambda client: client.partitions(),
        "scancel": lambda client: client.cancel(["7"]),
        "sacct": lambda client: client.accounting(["7"]),
    }
    ask = asks[command]
    if command != "sacct":
        with pytest.raises(
            UserError,
            match=f"^hydra/launcher=slurm: {command} is not on the PATH; run on a machine with "
            "Slurm's "
            "client",
        ):
            ask(client)
    stub(
        command,
        "7|N/A|",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
        1,
    )
    with pytest.raises(
        SlurmUnavailable,
        match=rf"^{command}: .*Unable to contact slurm controller \(connect failure\)$",
    ):
        ask(client)
    stub(command, status=1)
    with pytest.raises(SlurmUnavailable, match=f"^{command}: exit status 1$"):
        ask(client)
    stub(command, before="exec /bin/sleep 60")
    with pytest.raises(SlurmUnavailable, match=rf"^{command}: no answer within 0\.3 s$"):
        ask(SlurmClient(timeout_s=0.3))


def test_sbatch_missing(stub: Stubs, client: SlurmClient, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sbatch is not on the PATH"):
        client.submit(tmp_path / "job.sh", tmp_path / "answer")


def test_find_asks_the_queue_then_accounting(stub: Stubs, client: SlurmClient) -> None:
    stub("squeue", "12|sweep\n9|sweep\n3|sweeper\n")
    assert client.find("sweep") == "9"
    stub("squeue")
    assert client.find("sweep") is None  # no sacct
    stub("sacct", "12_4|sweep\n11_[5-6]|sweep\n3|other\n")
    assert client.find("sweep") == "11"
    assert "--name=sweep -S now-30days" in stub.calls("sacct")[0]
    stub("sacct", err="Slurm accounting storage is disabled\n", status=1)
    assert client.find("sweep") is None


def test_find_knows_nothing_while_either_is_silent(stub: Stubs, client: SlurmClient) -> None:
    stub("squeue")
    stub(
        "sacct", err="sacct: error: Problem talking to the database: Connection refused\n", status=1
    )
    with pytest.raises(SlurmUnavailable):
        client.find("sweep")
    stub("sacct")
    stub("squeue", err="slurm_load_jobs error: Socket timed out on send/recv operation\n", status=1)
    with pytest.raises(SlurmUnavailable):
        client.find("sweep")


# -- the rest --------------------------------------------------------------------------------------


def test_cancel_in_few_words(stub: Stubs, client: SlurmClient) -> None:
    stub("scancel")
    client.cancel(["7_1", "7_3", "7_4", "7_5", "8", "8_2", "9", "10_6"])
    assert stub.calls("scancel") == ["8 9 10_[6] 7_[1,3-5]"]


@pytest.mark.parametrize(
    "text", ["Invalid job id specified", "Job/step already completing or completed"]
)
def test_cancelling_what_is_gone_is_no_error(stub: Stubs, client: SlurmClient, text: str) -> None:
    stub("scancel", err=f"scancel: error: Kill job error on job id 7: {text}\n", status=1)
    client.cancel(["7"])


def test_cancelling_in_vain(stub: Stubs, client: SlurmClient) -> None:
    gone, silent = "Invalid job id specified", "Socket timed out on send/recv operation"
    stub(
        "scancel",
        err="".join(
            f"scancel: error: Kill job error on job id {id}: {text}\n"
            for id, text in ((7, gone), (8, silent))
        ),
        status=140,
    )
    with pytest.raises(SlurmUnavailable, match=f"^scancel: Kill job error on job id 8: {silent}$"):
        client.cancel(["7", "8"])


def test_configuration(stub: Stubs, client: SlurmClient) -> None:
    stub(
        "scontrol",
        "Configuration data as of 2026-11-21T12:46:17\nMaxArraySize            = "
        "10001\nMaxJobCount             = 20000\n",
    )
    assert client.max_array_size() == 10001
    stub("scontrol", "Configuration data as of 2026-11-21T12:46:17\n")
    assert client.max_array_size() == 1001
    stub("sinfo", "low\ngpu\ngpu\ncpu\n")
    assert client.partitions() == ["cpu", "gpu", "low"]


# -- a real Slurm ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm() -> SlurmClient:
    """A client of the Slurm on this machine."""
    if shutil.which("sbatch") is None:
        pytest.skip("needs Slurm: no sbatch on the PATH")
    if subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode:
        pytest.skip("needs Slurm: its controller does not answer (scontrol ping)")
    return SlurmClient(timeout_s=60)


@dataclass
class Jobs:
    """Small jobs in a real Slurm, cancelled at the end of the test."""

    client: SlurmClient
    folder: Path
    ids: list[str]

    def script(self, body: str, *options: str) -> tuple[str, Path]:
        """A new job's unique name, and its script."""
        name = f"client-test-{secrets.token_hex(6)}"
        path = self.folder / f"{name}.sh"
        words = (
            f"--job-name={name}",
            "--mem=100M",
            "-c1",
            "--time=5",
            f"--output={self.folder}/%a.out",
            *options,
        )
        path.write_text(
            "\n".join(["#!/bin/bash", *(f"#SBATCH {word}" for word in words), body, ""])
        )
        return name, path

    def submit(self, body: str, *options: str) -> tuple[str, str]:
        """A new job's unique name and number."""
        name, path = self.script(body, *options)
        self.ids.append(self.client.submit(path, self.folder / f"{name}.answer"))
        return name, self.ids[-1]

    def states(self, job: str) -> dict[str, str]:
        return {
            id.removeprefix(f"{job}_"): found.state
            for id, found in self.client.queue([job]).items()
        }

    def accounted(self, job: str) -> dict[str, Job]:
        try:
            return {
                id.removeprefix(f"{job}_"): found
                for id, found in self.client.accounting([job]).items()
            }
        except NoAccounting:
            pytest.skip("this Slurm keeps no accounts")


@pytest.fixture
def jobs(slurm: SlurmClient, tmp_path: Path) -> Iterator[Jobs]:
    jobs = Jobs(slurm, tmp_path, [])
    yield jobs
    slurm.cancel(jobs.ids)


def test_an_array_from_its_submission_to_its_end(jobs: Jobs) -> None:
    body = "case $SLURM_ARRAY_TASK_ID in 4) exit 3;; 7) sleep 200;; 9) kill -9 $$;; esac"
    name, job = jobs.submit(body, "--array=1,4,7,9")
    assert jobs.client.find(name) == job
    expected = {"1": "COMPLETED", "4": "FAILED", "7": "RUNNING", "9": "FAILED"}
    until(lambda: jobs.states(job) == expected)
    seen = jobs.client.queue([job])[f"{job}_7"]
    assert (
        seen.alive
        and seen.node
        and seen.started is not None
        and abs(seen.started - time.time()) < 120
    )
    jobs.client.cancel([f"{job}_7", f"{job}_1", f"{job}_88"])
    until(lambda: jobs.states(job) == {**expected, "7": "CANCELLED"})

    def settled() -> bool:
        found = jobs.accounted(job)
        return found.keys() == expected.keys() and not any(job.alive for job in found.values())

    until(settled)
    ends = {index: (job.state, job.exit_code, job.by) for index, job in jobs.accounted(job).items()}
    assert ends.pop("7")[::2] == ("CANCELLED", str(os.getuid()))
    assert ends == {
        "1": ("COMPLETED", "0:0", ""),
        "4": ("FAILED", "3:0", ""),
        "9": ("FAILED", "0:9", ""),
    }
    assert jobs.client.find(name) == job


@pytest.mark.parametrize(
    "indices", [[3, *range(100, 400, 3), 999], list(range(0, 1001, 2)), [5], [1, 3, 5]], ids=len
)
def test_pending_tasks_and_what_becomes_of_them(jobs: Jobs, indices: list[int]) -> None:
    if jobs.client.max_array_size() <= max(indices):
        pytest.skip("arrays are smaller on this Slurm")
    name, job = jobs.submit("true", "--hold", f"--array={','.join(map(str, indices))}%2")
    assert jobs.states(job) == {str(index): "PENDING" for index in indices}
    assert jobs.client.find(name) == job
    until(
        lambda: (
            {index: job.state for index, job in jobs.accounted(job).items()}
            == {str(index): "PENDING" for index in indices}
        )
    )
    first = str(indices[0])
    jobs.client.cancel([f"{job}_{index}" for index in indices[1:]])
    until(lambda: jobs.states(job) == {first: "PENDING"})
    jobs.client.cancel([job])
    until(lambda: jobs.states(job) == {first: "CANCELLED"})


def test_a_child_whose_parent_fails(jobs: Jobs) -> None:
    _, parent = jobs.submit("exit $((SLURM_ARRAY_TASK_ID % 2))", "--array=0-1")
    _, child = jobs.submit(
        "true", "--array=0-1", f"--dependency=aftercorr:{parent}", "--kill-on-invalid-dep=yes"
    )
    until(lambda: jobs.states(child) == {"0": "COMPLETED", "1": "CANCELLED"})
    cancelled = jobs.client.queue([child])[f"{child}_1"]
    assert (cancelled.reason, cancelled.started) == ("DependencyNeverSatisfied", None)
    until(lambda: "1" in jobs.accounted(child) and jobs.accounted(child)["1"].state == "CANCELLED")
    assert jobs.accounted(child)["1"].by == ""


def test_ids_and_names_that_nobody_knows(jobs: Jobs) -> None:
    _, job = jobs.submit("sleep 60")
    assert jobs.client.queue(["99999999"]) == {}
    assert set(jobs.client.queue(["99999999", job, "99999998"])) == {job}
    assert jobs.client.find("client-test-of-nobody") is None
    jobs.client.cancel(["99999999", "99999998_3", f"{job}_5"])
    assert jobs.client.queue([job])[job].alive
    until(lambda: set(jobs.accounted(job)) == {job})
    assert set(jobs.client.accounting(["99999999", job])) == {job}


@pytest.mark.parametrize(
    "option", ["--partition=no-such", "--constraint=no-such", "--mem=9999G", "--no-such-option"]
)
def test_a_job_that_can_never_run(jobs: Jobs, option: str) -> None:
    _, path = jobs.script("true", option)
    with pytest.raises(SlurmRefused):
        jobs.client.submit(path, jobs.folder / "answer")
    assert read_answer(jobs.folder / "answer") == (False, None)
    word, _, value = option[2:].partition("=")
    if value:  # an option that srun does not know says nothing about sbatch
        with pytest.raises(SlurmRefused):
            jobs.client.test({word: value})
    jobs.client.test({"mem": "100M", "cpus-per-task": 1})


def test_the_number_reaches_the_disk_though_we_are_killed(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = shutil.which("sbatch")
    (tmp_path / "bin").mkdir()
    slow = tmp_path / "bin" / "sbatch"
    slow.write_text(f'#!/bin/sh\ntouch {tmp_path}/begun\nsleep 1\nexec {sbatch} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    _, path = jobs.script("sleep 60")
    answer = tmp_path / "answer"
    code = (
        "import sys; from pathlib import Path; from mosweep.launchers.slurm.client import "
        "SlurmClient\n"
    )
    code += "SlurmClient().submit(Path(sys.argv[1]), Path(sys.argv[2]))"
    driver = subprocess.Popen([sys.executable, "-c", code, str(path), str(answer)])
    until((tmp_path / "begun").exists)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert read_answer(answer) == (True, None)
    until(lambda: not read_answer(answer)[0])
    _, number = read_answer(answer)
    assert number is not None
    jobs.ids.append(number)
    assert jobs.client.queue([number])[number].alive


def test_the_cluster(slurm: SlurmClient) -> None:
    assert slurm.max_array_size() > 1
    assert slurm.partitions() == sorted(set(slurm.partitions())) != []
