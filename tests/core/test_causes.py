"""The line of a failure that says what is wrong, not the last one."""

from __future__ import annotations

import traceback

import pytest

from mosweep.core.causes import decisive_line, raised_in, reason_of
from mosweep.core.errors import ConfigError, StageError

PYDANTIC = """2 validation errors for Answer
items.1.grade
  Input should be a valid number [type=float_type, input_value='high', input_type=str]
    For further information visit https://errors.pydantic.dev/2.12/v/float_type
items.2.grade
  Field required [type=missing, input_value={}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2.12/v/missing"""
CUDA = """CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            PYDANTIC,
            "2 validation errors for Answer: items.1.grade: Input should be a valid number "
            "(and 1 more)",
        ),
        (CUDA, "CUDA error: device-side assert triggered"),
        ("\n\n  no such file  \n", "no such file"),
        (
            "cannot load the tokenizer:\n  vocab.json is missing\n",
            "cannot load the tokenizer: vocab.json is missing",
        ),
        (
            "[bold]ERROR[/bold]: Unable to use the client\n\nNo [bold][blue]SOME_KEY[/blue][/bold] "
            "defined in the environment.",
            "Unable to use the client: No SOME_KEY defined in the environment.",
        ),
        ("", ""),
        ("x" * 400, "x" * 297 + "…"),
    ],
)
def test_the_line_of_a_message(message: str, line: str) -> None:
    assert decisive_line(message) == line


def raised(number: int) -> Exception:
    """Real exceptions, with their tracebacks."""
    try:
        if number == 0:
            raise KeyError("answer")
        if number == 1:
            try:
                raise FileNotFoundError("no words.txt")
            except FileNotFoundError as error:
                raise RuntimeError("the task cannot start") from error
        if number == 2:
            noted = ValueError("bad row")
            noted.add_note("in train.jsonl, line 7")
            noted.add_note("see the manual")
            raise noted
        if number == 3:
            raise ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("the real one")])
        if number == 4:
            raise RuntimeError(CUDA)
        raise AssertionError
    except Exception as error:
        return error


REASONS = [
    "KeyError: 'answer'",
    "RuntimeError: the task cannot start (because of FileNotFoundError: no words.txt)",
    "ValueError: bad row (in train.jsonl, line 7)",
    "ValueError: the real one",
    "RuntimeError: CUDA error: device-side assert triggered",
    "AssertionError",
]


@pytest.mark.parametrize(("number", "reason"), enumerate(REASONS))
def test_the_reason_of_an_exception(number: int, reason: str) -> None:
    assert reason_of(raised(number)) == reason


def test_our_own_errors_are_their_text() -> None:
    assert reason_of(ConfigError("lora.rank", 0, "must be at least 1")).startswith("lora.rank=0: ")
    assert reason_of(StageError("no loss", "/a/log")) == "no loss (log: /a/log)"


@pytest.mark.parametrize("number", [0, 1, 4, 5])
def test_a_log_has_the_same_reason(number: int) -> None:
    log = "step 1\nstep 2\n" + "".join(traceback.format_exception(raised(number))) + "goodbye\n"
    assert raised_in(log) == REASONS[number]


def test_what_python_ignores_at_its_end_is_not_the_reason() -> None:
    log = "".join(traceback.format_exception(raised(0)))
    log += (
        "Exception ignored in: <function Loader.__del__ at 0x7f>\n"
        "Traceback (most recent call last):\n"
        '  File "loader.py", line 3, in __del__\n'
        "AttributeError: 'NoneType' object has no attribute 'close'\n"
    )
    assert raised_in(log) == REASONS[0]


def test_an_exception_that_reports_another_process_is_not_the_reason() -> None:
    log = "".join(traceback.format_exception(raised(0)))
    log += (
        "Traceback (most recent call last):\n"
        '  File "launch.py", line 3, in <module>\n'
        "subprocess.CalledProcessError: Command '['python', 'a.py']' returned non-zero exit "
        "status 1.\n"
    )
    assert raised_in(log) == REASONS[0]


def test_an_exception_whose_name_does_not_say_so() -> None:
    log = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in <module>\n'
        "queue.Empty\n"
        "error: the job ended\n"
    )
    assert raised_in(log) == "Empty"
    assert raised_in("error: nothing here\n") is None
