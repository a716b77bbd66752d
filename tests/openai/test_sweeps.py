"""Sweeps with ``backend=openai``, from the command line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.conftest import Shell
from tests.openai.conftest import KEY, Service, until
from tests.openai.storm import processes

from mosweep.cli.doctor import diagnose
from mosweep.core.errors import ConfigError
from mosweep.core.work import FINETUNE
from mosweep.design.application import planned

OPENAI = ("backend=openai", "model=gpt-4o-mini", "tracking=none", "backend.poll_s=0.1")


@pytest.fixture
def quick(words: Path) -> tuple[str, ...]:
    """A sweep whose evaluations are made up."""
    return (*OPENAI, f"dataset.path={words.name}", "eval=dummy", "run_control_trials=false")


@pytest.mark.real
def test_fine_tuned_and_evaluated(shell: Shell, openai: Service) -> None:
    sweep = (
        "-m",
        *OPENAI,
        "seed=0,1",
        "optim.epochs=2",
        "inspect.task_args.limit=10",
        "experiment.name=caps",
    )
    done = shell(*sweep)
    assert done.status == 0, done.err
    trials = shell.summary("caps")
    assert {
        trial["metrics"]["capitalization/accuracy"]
        for trial in trials.values()
        if not trial["control"]
    } == {1.0}
    assert {
        trial["metrics"]["capitalization/accuracy"] for trial in trials.values() if trial["control"]
    } == {0.0}
    jobs = openai.jobs
    assert [job["model"] for job in jobs] == ["gpt-4o-mini-2024-07-18"] * 2
    assert [job["method"]["supervised"] for job in jobs] == [
        {"hyperparameters": {"n_epochs": 2}}
    ] * 2
    log = (shell.folder / "multirun/caps/seed=0/finetune/log.txt").read_text()
    assert "started" in log
    assert "succeeded" in log
    asked = openai.report["requests"]
    again = shell(*sweep)
    assert "nothing to do" in again.out
    assert openai.report["requests"] == asked
    for path in shell.files():
        assert KEY.encode() not in (shell.folder / path).read_bytes(), path


def test_what_a_fine_tune_leaves(shell: Shell, openai: Service, quick: tuple[str, ...]) -> None:
    from mosweep.core.store import Store

    shell(
        "-m",
        *quick,
        "seed=5",
        "optim.epochs=1",
        "optim.batch_size=4",
        "backend.learning_rate_multiplier=0.5",
        "experiment.name=one",
    )
    [job] = openai.jobs
    store = Store(shell.folder / ".mosweep" / "store")
    [record] = [
        record
        for key in store.keys()  # noqa: SIM118
        if (record := store.read(key)) and record.data["kind"] == "finetune"
    ]
    left = record.facts
    assert left["remote_job"] == job["id"]
    assert left["model_id"] == f"ft:gpt-4o-mini-2024-07-18:our-org:mosweep:{job['id'][-8:]}"
    assert left["access"] == {
        "type": "hosted",
        "provider": "openai",
        "model": left["model_id"],
    }
    assert left["settings"] == {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 0.5}
    assert (left["seed"], left["steps"], left["final_loss"]) == (
        5,
        3,
        pytest.approx(1.5385, abs=1e-3),
    )
    assert [checkpoint["step"] for checkpoint in left["checkpoints"]] == [3]
    usage = left["usage"]
    assert usage["train_tokens"] == left["trained_tokens"] > 0
    assert usage["usd"] == pytest.approx(usage["train_tokens"] * 3 / 1e6)


def test_preferences_and_validation(shell: Shell, openai: Service, words: Path) -> None:
    folder = shell.folder / "pairs"
    folder.mkdir()
    for name, more in (
        ("train", words.read_text()),
        ("validation", words.read_text().replace("W", "V")),
    ):
        (folder / f"{name}.jsonl").write_text(more.replace("]}", '], "rejected": "no"}'))
    sweep = (
        "backend=openai",
        "model=gpt-4.1-mini",
        "tracking=none",
        "backend.poll_s=0.1",
        "dataset.path=pairs",
        "eval=dummy",
    )
    done = shell(*sweep, "backend.method=dpo", "backend.beta=0.3", "backend.validation=true")
    assert done.status == 0, done.err + done.out
    [job] = openai.jobs
    assert job["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}}
    assert job["validation_file"] != job["training_file"]


def test_plan_needs_no_network_and_says_what_is_coming(shell: Shell) -> None:
    done = shell(
        "plan",
        *OPENAI,
        "seed=0,1",
        env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_API_KEY": ""},
    )
    assert done.status == 0, done.err
    assert "OpenAI is closing fine-tuning" in done.out
    assert "2027-01-06" in done.out
    assert done.out.count("closing") == 1


def test_doctor_tells_what_is_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = {check.name: check for check in diagnose()}
    assert found["backend=openai"].works is True
    assert "OpenAI is closing fine-tuning" in found["backend=openai"].finding
    assert found["OpenAI"].finding.startswith("OPENAI_API_KEY is set; ")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert {check.name: check for check in diagnose()}["backend=openai"].works is None


@pytest.mark.parametrize(
    ("given", "environment", "problem"),
    [
        ((), {"OPENAI_API_KEY": ""}, "OPENAI_API_KEY is not set"),
        (
            (),
            {"OPENAI_API_KEY": "sk-wrong-0123456789abcdef"},
            "OpenAI rejects the key in OPENAI_API_KEY",
        ),
        (
            ("model.inspect=openai/gpt-5o",),
            {},
            "model.inspect=openai/gpt-5o: OpenAI rejects it: 400 model_not_available",
        ),
        (
            ("model.inspect=openai/davinci-002",),
            {},
            "model.inspect=openai/davinci-002: OpenAI rejects it: 400 model_retired",
        ),
        (
            ("backend.method=dpo",),
            {},
            "backend.method=dpo: OpenAI rejects it: 400 invalid_method",
        ),
        (("lora.rank=8",), {}, "lora.rank=8: backend=openai has no such setting"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_started(
    shell: Shell,
    openai: Service,
    quick: tuple[str, ...],
    given: tuple[str, ...],
    environment: dict[str, str],
    problem: str,
) -> None:
    before = shell.files()
    done = shell("-m", *quick, *given, env=environment)
    assert done.status == 2
    assert problem in done.err
    assert len(done.err.splitlines()) == 1
    assert shell.files() == before
    assert openai.jobs == []
    assert openai.report["files"] == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("backend.method=reinforcement", "backend.method=reinforcement: valid: dpo, supervised"),
        (
            "model=tiny",
            "model=tiny: backend=openai fine-tunes models of OpenAI: choose one with inspect: "
            "openai/…",
        ),
        ("lora.dropout=0.1", "lora.dropout=0.1: backend=openai has no such setting"),
        (
            "optim.lr=1e-4",
            "optim.lr=0.0001: OpenAI has no learning rate; set backend.learning_rate_multiplier",
        ),
        ("optim.warmup_steps=3", "optim.warmup_steps=3: backend=openai has no such setting"),
        ("optim.epochs=99", "optim.epochs=99: must be ≥ 1 and ≤ 50"),
        ("optim.batch_size=999", "optim.batch_size=999: must be ≥ 1 and ≤ 256"),
        ("seed=2147483648", "seed=2147483648: must be ≥ 0 and ≤ 2147483647 (OpenAI's limit)"),
        (
            "torchtune.batch_size=3",
            "nothing in this sweep takes this setting; backend=torchtune would",
        ),
        ("backend.beta=0.1", "backend.beta=0.1: requires method=dpo"),
        ("backend.max_concurrent=0", "backend.max_concurrent=0: must be ≥ 1"),
    ],
)
def test_what_openai_has_not_is_refused_in_the_plan(
    given: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        planned(["backend=openai", "model=gpt-4o-mini", given])
    assert problem in str(caught.value)


def test_the_key_is_the_science(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def key(*overrides: str) -> str:
        [stage] = [
            s
            for s in planned(["backend=openai", "model=gpt-4o-mini", *overrides])[0][0].stages
            if s.kind == FINETUNE
        ]
        return stage.key

    for circumstance in ("max_concurrent=3", "poll_s=1", "suffix=other", "patience_min=1"):
        assert key(f"backend.{circumstance}") == key(), circumstance
    changed = (
        "seed=1",
        "optim.epochs=3",
        "optim.batch_size=8",
        "backend.learning_rate_multiplier=2",
        "backend.method=dpo",
        "model=gpt-4.1",
    )
    assert len({key(), key("backend.validation=true"), *map(key, changed)}) == 2 + len(changed)


def test_one_question_per_model_not_per_trial(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    openai.set(closed=True)
    done = shell("-m", *quick, "seed=range(50)", "model=gpt-4o-mini,gpt-4.1-mini")
    assert done.status == 2
    assert (
        "OpenAI rejects it: 403 fine_tuning_closed: Fine-tuning is no longer "
        "available to your organization."
    ) in done.err
    assert sum(openai.report["requests"].values()) == 2, (
        "whether it would take a job, and whether there are jobs already"
    )


def killed(shell: Shell, openai: Service, *sweep: str, jobs: int) -> None:
    """Start a sweep, and kill its driver when it has so many jobs."""
    openai.set(tick_s=1.0)
    process = shell.start(*sweep)
    until(lambda: len(openai.jobs) == jobs)
    workers = [pid for pid in processes() if pid != process.pid]
    process.kill()
    process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.parametrize("lost", [False, True])
def test_what_was_begun_is_finished_though_fine_tuning_has_closed(
    shell: Shell, openai: Service, quick: tuple[str, ...], lost: bool
) -> None:
    sweep = ("-m", *quick, "seed=0,1", "experiment.name=two")
    killed(shell, openai, *sweep, jobs=2)
    if lost:  # whatever this machine knew of them
        for intent in shell.folder.glob(".mosweep/store/artifacts/*/*/job.json"):
            intent.unlink()
    openai.set(closed=True, restart=True)
    done = shell(*sweep)
    assert done.status == 0, done.err
    assert [job["status"] for job in openai.jobs] == ["succeeded"] * 2
    assert openai.report["requests"]["POST /v1/fine_tuning/jobs"] == 4, (
        "two jobs, and what each launch asked before"
    )


def test_a_refused_job_does_not_keep_others_from_their_end(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    killed(shell, openai, "-m", *quick, "seed=0", "experiment.name=grown", jobs=1)
    openai.set(closed=True, restart=True)
    done = shell("-m", *quick, "seed=0,1", "experiment.name=grown")
    assert done.status == 1
    assert "fine_tuning_closed" in done.err
    assert "1 stage that already has a job will still finish" in done.err
    trials = shell.summary("grown")
    assert {name: trial["status"] for name, trial in trials.items()} == {
        "trial": "succeeded",
        "seed=1": "failed",
    }
    assert [job["status"] for job in openai.jobs] == ["succeeded"]


def test_nothing_is_forgotten_for_a_job_that_would_be_refused(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    sweep = ("-m", *quick, "seed=0,1", "experiment.name=two")
    assert shell(*sweep).status == 0
    openai.set(closed=True)
    done = shell("run", "two", "--stage", "finetune", "--force")
    assert done.status == 2
    assert "OpenAI rejects it: 403 fine_tuning_closed" in done.err
    assert "nothing to do" in shell(*sweep).out


def test_a_list_of_jobs_that_cannot_be_had_is_a_refusal(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    openai.set(closed=True)
    openai.fault(
        "GET /v1/fine_tuning/jobs$",
        403,
        code="forbidden",
        message="Missing scopes: api.fine_tuning.jobs.read",
    )
    done = shell("-m", *quick)
    assert done.status == 2
    assert done.err == (
        "mosweep: backend=openai: OpenAI: listing jobs: 403 forbidden: Missing scopes: "
        "api.fine_tuning.jobs.read\n"
    )


def test_a_wrong_key_is_told_before_what_was_begun_goes_on(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    sweep = ("-m", *quick, "seed=0", "experiment.name=one")
    killed(shell, openai, *sweep, jobs=1)
    done = shell(*sweep, env={"OPENAI_API_KEY": "sk-wrong-0123456789abcdef"})
    assert done.status == 2
    assert "OpenAI rejects the key in OPENAI_API_KEY" in done.err


def test_ctrl_c_leaves_the_jobs_and_the_same_command_attaches(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    openai.set(tick_s=0.8)
    sweep = ("-m", *quick, "seed=0,1", "experiment.name=two")
    process = shell.start(*sweep)
    until(
        lambda: (
            sum(
                "ftjob" in path.read_text()
                for path in shell.folder.glob(".mosweep/store/artifacts/*/*/job.json")
            )
            == 2
        )
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        "2 stages continue at openai: the same command attaches again, and "
        "mosweep cancel cancels them"
    ) in out + err
    assert {job["status"] for job in openai.jobs} & {"cancelled", "failed"} == set()
    done = shell(*sweep)
    assert done.status == 0, done.err
    assert len(openai.jobs) == 2
    assert (
        "attached to a job started earlier"
        in (shell.folder / "multirun/two/seed=0/finetune/log.txt").read_text()
    )


def test_cancel_ends_the_jobs(shell: Shell, openai: Service, quick: tuple[str, ...]) -> None:
    openai.set(tick_s=60)
    sweep = ("-m", *quick, "seed=0,1", "experiment.name=two")
    process = shell.start(*sweep)
    until(lambda: len(openai.jobs) == 2)
    done = shell("cancel", "two")
    process.communicate(timeout=30)
    assert done.status == 0, done.err
    assert "2 at a provider" in done.out
    assert [job["status"] for job in openai.jobs] == ["cancelled"] * 2
    assert shell("cancel", "two", "--json").json["jobs"] == []


def test_the_process_of_remote_stages_may_die(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    openai.set(tick_s=0.7)
    process = shell.start("-m", *quick, "seed=0,1", "experiment.name=two")
    until(lambda: len(openai.jobs) == 2)
    [worker] = [pid for pid, words in processes().items() if words[-1] == "remote"]
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert len(openai.jobs) == 2


def test_a_failed_job_costs_its_trial_and_is_tried_anew(
    shell: Shell, openai: Service, quick: tuple[str, ...], words: Path
) -> None:
    bad = words.with_name("bad.jsonl")
    bad.write_text(words.read_text().replace("w3", "fail me"))
    trials = f'treatments=[{{"dataset.path": "{words.name}"}}, {{"dataset.path": "{bad.name}"}}]'
    sweep = (
        "-m",
        *quick[:-3],
        "eval=dummy",
        "run_control_trials=false",
        trials,
        "experiment.name=bad",
    )
    for attempts in (1, 2):
        done = shell(*sweep)
        assert done.status == 1
        assert "unsafe training file. (moderation)" in done.out
        assert [job["status"] for job in openai.jobs].count("failed") == attempts
        assert [job["status"] for job in openai.jobs].count("succeeded") == 1


def test_force_pays_for_a_new_job(shell: Shell, openai: Service, quick: tuple[str, ...]) -> None:
    shell("-m", *quick, "seed=0,1", "experiment.name=two")
    before = {job["id"] for job in openai.jobs}
    done = shell("run", "two", "--trials", "seed=0", "--stage", "finetune", "--force")
    assert done.status == 0, done.err
    new = [job for job in openai.jobs if job["id"] not in before]
    assert [(job["seed"], job["metadata"]["mosweep_attempt"]) for job in new] == [(0, "2")]
    record = next(iter((shell.folder / ".mosweep/store/spent").glob("*/*")))
    assert record.read_text().strip() in before
    # results are gone, though not to be made anew: the jobs are there
    cleared = shell("cache", "clear", "--kind", "finetune", "--yes")
    assert cleared.status == 0, cleared.err
    assert shell("run", "two").status == 0
    assert len(openai.jobs) == 3
    assert new[0]["id"] in "".join(
        path.read_text() for path in (shell.folder / ".mosweep/store/records").glob("*/*.json")
    )


def test_a_time_limit_ends_the_wait_and_not_the_job(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    openai.set(tick_s=60)
    sweep = ("-m", *quick, "experiment.name=slow")
    done = shell(*sweep, "resources.stages.finetune.time_min=0.1")
    assert done.status == 1
    assert "over its time limit of 0.1 min" in done.out
    [job] = openai.jobs
    assert (
        "continues at OpenAI; the same command attaches to it"
        in next((shell.folder / ".mosweep").rglob("log.txt")).read_text()
    )
    openai.set(tick_s=0.05)
    assert shell(*sweep).status == 0
    assert [job["id"] for job in openai.jobs] == [job["id"]]


def test_the_organisations_limit_is_waited_out(
    shell: Shell, openai: Service, quick: tuple[str, ...]
) -> None:
    openai.set(max_active=2)
    done = shell("-m", *quick, "seed=range(6)", "experiment.name=six")
    assert done.status == 0, done.err
    assert len(openai.jobs) == 6
    assert openai.report["most_active"] == 2


def test_max_concurrent(shell: Shell, openai: Service, quick: tuple[str, ...]) -> None:
    openai.set(tick_s=0.2)
    done = shell("-m", *quick, "seed=range(6)", "backend.max_concurrent=3", "experiment.name=six")
    assert done.status == 0, done.err
    assert openai.report["most_active"] == 3
