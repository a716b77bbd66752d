"""EvalOps is told of every round once, and nothing else depends on whether it answers."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.conftest import DRY, Outcome, Shell

KEY = "eo-1234567890"
LOOP = (
    *DRY,
    "loop.enabled=true",
    "loop.max_rounds=4",
    "loop.threshold=0.85",
    "backend.rounds=[0.3,0.5,0.9]",
    "run_control_trials=false",
)


@dataclass
class Service:
    """EvalOps as far as test runs go. ``answers`` are statuses to give before it does as asked; 0
    says nothing for ``silence_s``.

    It takes ``delay_s`` to take a run, ``refuses`` runs of these names, and leads those it answers
    301 to ``location``.
    """

    silence_s: float = 2.0
    delay_s: float = 0.0
    refuses: tuple[str, ...] = ()
    location: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    answers: list[int] = field(default_factory=list)
    always: int | None = None
    retry_after: str | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[float, int]] = field(default_factory=list)
    read: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(
        self, path: str, key: str | None, body: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        status = (
            self.always if self.always is not None else self.answers.pop(0) if self.answers else 201
        )
        if path != "/api/v1/test-runs/":
            status = 404
        elif key != f"Bearer {KEY}":
            status = 401
        elif "testSuiteId" not in body or (status == 201 and body["name"] in self.refuses):
            status = 422
        self.requests.append((time.monotonic(), status))
        if status == 0:
            self.over.wait(self.silence_s)
        if status != 201:
            return status or 500, {"error": "no"}
        self.over.wait(self.delay_s)
        self.runs.append(body)
        return 201, {"success": True, "data": {"id": f"run-{len(self.runs)}", "status": "pending"}}


class Server(ThreadingHTTPServer):
    """Does not wait for requests at its end; says nothing of clients that gave up waiting."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = state.answer(self.path, self.headers["Authorization"], body)
            self.send_response(status)
            if state.retry_after and status in (429, 503):
                self.send_header("Retry-After", state.retry_after)
            if status == 301:
                self.send_header("Location", state.location)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def do_GET(self) -> None:
            state.read.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield state
    state.over.set()
    server.shutdown()
    server.server_close()


def run(
    shell: Shell, service: Service, *words: str, key: str = KEY, timeout_s: float = 0.5
) -> Outcome:
    told = (
        f"loop.evalops.url={service.url}",
        "loop.evalops.suite=suite-7",
        f"loop.evalops.timeout_s={timeout_s}",
    )
    return shell("-m", *LOOP, *told, "experiment.name=loop", *words, env={"EVALOPS_API_KEY": key})


def told(shell: Shell) -> dict[str, str]:
    lines = (shell.folder / "multirun" / "loop" / "evalops.jsonl").read_text().splitlines()
    return {event["key"]: event["id"] for event in map(json.loads, lines)}


def test_every_round_that_was_trained_is_a_test_run(shell: Shell, service: Service) -> None:
    assert run(shell, service).status == 0
    assert [body["name"] for body in service.runs] == [
        "Training Round 1",
        "Training Round 2",
        "Training Round 3",
    ]
    (trial,) = shell.summary("loop").values()
    scores = {stage["key"]: stage for stage in trial["stages"] if stage["kind"] == "round-eval"}
    for number, body in enumerate(service.runs, 1):
        metadata = body["config"]["metadata"]
        assert body["testSuiteId"] == "suite-7"
        assert body["tags"] == ["mosweep", f"round-{number}"]
        assert body["config"]["model"] == metadata["checkpoint"]
        assert body["config"]["model"].startswith("dummy/tiny@")
        assert metadata["round"] == number
        assert (
            metadata["score"]
            == metadata["metrics"]["score"]
            == pytest.approx([0.3, 0.5, 0.9][number - 1], abs=0.1)
        )
        assert metadata["watched"] == "capitalization/score"
        assert (metadata["experiment"], metadata["trial"], metadata["dummy"]) == (
            "loop",
            trial["name"],
            True,
        )
        assert scores[metadata["key"]]["label"] == f"eval {number}:capitalization"
    assert told(shell) == {
        body["config"]["metadata"]["key"]: f"run-{number}"
        for number, body in enumerate(service.runs, 1)
    }
    assert run(shell, service).status == 0
    assert len(service.requests) == 3, "nothing is told twice"


@pytest.mark.parametrize("broken", [500, 0, 400, "down"])
def test_a_service_that_does_not_answer_costs_a_warning_and_nothing_else(
    shell: Shell, service: Service, broken: int | str
) -> None:
    address = service.url
    if isinstance(broken, int):
        service.always = broken
    else:
        service.url = "http://127.0.0.1:9"
    done = run(shell, service)
    assert done.status == 0
    assert done.err.count("ProjectionWarning") == 1
    assert "not all rounds were sent to EvalOps" in done.err
    if broken == 500:
        plain = Shell(shell.folder / "plain")
        plain.folder.mkdir()
        assert plain("-m", *LOOP, "experiment.name=loop").status == 0
        assert _result(shell) == _result(plain)
    assert len(service.requests) == {500: 3, 0: 3, 400: 3, "down": 0}[broken], (
        "bounded, and not again for every round"
    )
    assert KEY not in done.out + done.err
    service.url, service.always = address, None
    assert run(shell, service).status == 0
    assert len(service.runs) == 3, "made up for by the next launch"
    assert len(told(shell)) == 3


def _result(shell: Shell) -> dict[str, Any]:
    return {
        name: (
            trial["status"],
            trial["metrics"],
            [(stage["label"], stage["key"], stage["status"]) for stage in trial["stages"]],
        )
        for name, trial in shell.summary("loop").items()
    }


def test_a_passing_trouble_is_got_over_and_told_nobody(shell: Shell, service: Service) -> None:
    service.answers, service.retry_after = [503, 201, 429], "1"
    done = run(shell, service)
    assert done.status == 0
    assert "ProjectionWarning" not in done.err
    assert len(service.runs) == 3
    times = {status: moment for moment, status in service.requests}
    limited = next(place for place, (_, status) in enumerate(service.requests) if status == 429)
    assert service.requests[limited + 1][0] - service.requests[limited][0] >= 1, "Retry-After"
    assert set(times) == {201, 429, 503}


SLOW = ("backend.delay_s=1.0", "backend.rounds=[0.3,0.4,0.5,0.95]")


@contextmanager
def under_way(
    shell: Shell, service: Service, *words: str, timeout_s: float = 0.5
) -> Iterator[subprocess.Popen[str]]:
    """A launch whose rounds take their time."""
    told = (
        f"loop.evalops.url={service.url}",
        "loop.evalops.suite=suite-7",
        f"loop.evalops.timeout_s={timeout_s}",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALOPS_API_KEY", KEY)
        process = shell.start("-m", *LOOP, *SLOW, *told, "experiment.name=loop", *words)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def evaluated(service: Service, rounds: int) -> bool:
    return len(service.runs) == rounds


def finished(shell: Shell) -> int:
    """How many stages are done, by the journal."""
    return sum(event["event"] == "finished" for event in shell.journal("loop"))


def test_a_round_is_told_of_when_it_is_evaluated(shell: Shell, service: Service) -> None:
    with under_way(shell, service) as process:
        for rounds in (1, 2, 3):
            until(partial(evaluated, service, rounds))
            assert process.poll() is None
            assert finished(shell) <= 2 * rounds + 1, (
                "the rounds so far with their evaluations, and hardly the next"
            )
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert "Warning" not in err
    assert [body["config"]["metadata"]["round"] for body in service.runs] == [1, 2, 3, 4]
    assert len(told(shell)) == 4


def test_who_is_killed_tells_the_rest_at_the_next_launch_and_nothing_twice(
    shell: Shell, service: Service
) -> None:
    with under_way(shell, service) as process:
        until(lambda: len(told_so_far(shell)) == 2)
        process.kill()
        process.communicate()
        assert len(service.runs) == 2
    assert run(shell, service, *SLOW).status == 0
    assert [body["config"]["metadata"]["round"] for body in service.runs] == [1, 2, 3, 4]
    assert len({body["config"]["metadata"]["key"] for body in service.runs}) == 4


def told_so_far(shell: Shell) -> dict[str, str]:
    return told(shell) if (shell.folder / "multirun" / "loop" / "evalops.jsonl").exists() else {}


def test_rounds_do_not_wait_for_a_service_that_hangs_and_the_end_waits_for_one_answer(
    shell: Shell, service: Service
) -> None:
    service.always, service.silence_s = 0, 120.0
    with under_way(shell, service, timeout_s=6) as process:
        until(lambda: len(service.requests) == 1)
        # while the first request hangs, all rounds come to their end
        until(lambda: finished(shell) == 10)
        done_at = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - done_at < 5 + 6 + 3
    assert process.returncode == 0
    assert 1 <= len(service.requests) <= 3
    assert err.count("ProjectionWarning: not all rounds were sent to EvalOps: ") == 1
    assert "timed out (attempt " in err


def test_an_answer_that_is_due_is_waited_for_and_no_more_are_asked_for(
    shell: Shell, service: Service
) -> None:
    service.delay_s = 7.0
    done = run(shell, service, timeout_s=12)
    assert done.status == 0
    assert len(service.runs) == len(told(shell)) == 1
    assert (
        done.err.count(
            "not all rounds were sent to EvalOps: the launch ended first; the next launch retries"
        )
        == 1
    )
    service.delay_s = 0.0
    assert "Warning" not in run(shell, service).err
    assert [body["config"]["metadata"]["round"] for body in service.runs] == [1, 2, 3]


def test_a_round_that_is_refused_keeps_no_other_from_being_told(
    shell: Shell, service: Service
) -> None:
    service.refuses = ("Training Round 1",)
    for requests, runs in [(3, 2), (4, 2)]:
        done = run(shell, service)
        assert done.status == 0
        assert done.err.count("ProjectionWarning") == 1
        assert (
            f"not all rounds were sent to EvalOps: {service.url}/api/v1/test-runs/ answers 422 "
            "Unprocessable Entity; the next"
        ) in done.err
        assert (len(service.requests), len(service.runs)) == (requests, runs), (
            "once a launch, what is refused; once, what is not"
        )
    service.refuses = ()
    assert "Warning" not in run(shell, service).err
    assert sorted(body["config"]["metadata"]["round"] for body in service.runs) == [1, 2, 3]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_not_tried_again_for_every_round(
    shell: Shell, service: Service, status: int
) -> None:
    service.always = status
    done = run(shell, service)
    assert (done.status, len(service.requests)) == (0, 1)
    assert done.err.count("ProjectionWarning") == 1
    assert f"answers {status} " in done.err


def test_where_it_leads_to_is_not_followed_with_the_key(shell: Shell, service: Service) -> None:
    service.always, service.location = 301, f"{service.url}/elsewhere"
    done = run(shell, service)
    assert (done.status, service.read, len(service.requests)) == (0, [], 1)
    assert "answers 301 Moved Permanently" in done.err
    service.always = None
    assert run(shell, service).status == 0
    assert len(service.runs) == 3, "nothing counted as told"


def test_an_error_that_nobody_thought_of_is_the_warning_and_no_traceback(
    shell: Shell, service: Service
) -> None:
    service.always, service.location = 301, "http://[::1"
    done = run(shell, service)
    assert done.status == 0
    assert "Traceback" not in done.err
    assert (
        done.err.count(
            "ProjectionWarning: not all rounds were sent to EvalOps: ValueError: Invalid IPv6 URL; "
            "the next launch"
        )
        == 1
    )


def test_an_address_that_cannot_be_is_refused_before_anything_starts(shell: Shell) -> None:
    done = shell(
        "-m",
        *LOOP,
        "loop.evalops.url='http://[::1'",
        "loop.evalops.suite=s",
        env={"EVALOPS_API_KEY": KEY},
    )
    assert done.status == 2
    assert done.err.startswith("mosweep: loop.evalops.url=http://[::1: expected an address")
    assert len(done.err.splitlines()) == 1
    assert shell.files() == set()


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    shell: Shell, service: Service
) -> None:
    done = run(shell, service, key=f"{KEY}\n{KEY}")
    assert done.status == 2
    assert done.err == (
        "mosweep: the key in the environment variable EVALOPS_API_KEY has invalid characters\n"
    )
    assert shell.files() == set()


def test_a_missing_key_is_told_before_anything_starts(shell: Shell, service: Service) -> None:
    done = run(shell, service, key="")
    assert done.status == 2
    assert (
        done.err
        == "mosweep: loop.evalops.url needs a key in the environment variable EVALOPS_API_KEY\n"
    )
    assert shell.files() == set()


def test_the_key_is_in_no_file(shell: Shell, service: Service) -> None:
    run(shell, service)
    for name in shell.files():
        assert KEY.encode() not in (shell.folder / name).read_bytes(), name
