"""Terminals and logs that are not UTF-8 lose signs, but no command and no stage."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.conftest import DRY, Outcome, Shell

SWEEP = ("-m", "lora.rank=4,8", "experiment.name=a", *DRY)
NARROW = ("ascii", "latin-1", "cp1252:strict")


def run(shell: Shell, encoding: str, *words: str) -> Outcome:
    """The command with a terminal of that encoding."""
    done = subprocess.run(
        shell.command(*words),
        cwd=shell.folder,
        env={**shell.environment, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    plain = encoding.partition(":")[0]
    return Outcome(done.returncode, done.stdout.decode(plain), done.stderr.decode(plain))


@pytest.mark.parametrize("encoding", NARROW)
def test_a_sweep_that_succeeded_ends_with_0(shell: Shell, encoding: str) -> None:
    done = run(shell, encoding, *SWEEP)
    assert done.status == 0, done.err
    assert "---" in done.out
    for verb in ("summary", "status", "plan"):
        done = run(shell, encoding, verb, *(SWEEP if verb == "plan" else ("a",)))
        assert done.status == 0 and "Traceback" not in done.err, (verb, done.err)


@pytest.mark.parametrize("encoding", NARROW)
def test_json_has_every_character(shell: Shell, encoding: str) -> None:
    levels = {"inspect.system_message": ["Grüße — 你好", "b"]}
    (shell.folder / "t.json").write_text(json.dumps(levels, ensure_ascii=False), encoding="utf-8")
    words = ("treatments=@t.json", "primary_metric=null", "experiment.name=a", *DRY)
    done = run(shell, encoding, "-m", *words)
    assert done.status == 0, done.err
    said = run(shell, encoding, "summary", "a", "--json")
    assert said.status == 0, said.err
    assert "Grüße — 你好" in json.dumps(json.loads(said.out), ensure_ascii=False)


def test_an_error_names_what_the_user_wrote(shell: Shell) -> None:
    done = shell("-m", "task=größe", *DRY, env={"PYTHONIOENCODING": "ascii"})
    assert done.status == 2
    assert "gr\\xf6\\xdfe" in done.err and "Traceback" not in done.err


def test_text_that_is_no_unicode_can_be_shown(shell: Shell) -> None:
    """The name of a file in another encoding reaches Python as surrogates."""
    done = shell("-m", "task=gr\udcf6\udcdfe", *DRY)
    assert done.status == 2 and "Traceback" not in done.err


def test_user_code_may_print_anything(shell: Shell) -> None:
    """The output of a stage goes to its log, not to the terminal."""
    task = shell.folder / "tasks" / "says"
    task.mkdir(parents=True)
    (task / "data.py").write_text(
        "import json, subprocess, sys\n"
        "DATASETS = ('one',)\n"
        "def build(dataset, data_dir):\n"
        "    print('größer ± 你好')\n"
        "    subprocess.run([sys.executable, '-c', 'print(chr(0x4f60))'], check=True)\n"
        "    row = {'prompt': 'Grüße', 'response': '你好'}\n"
        "    text = json.dumps(row, ensure_ascii=False) + '\\n'\n"
        "    (data_dir / 'train.jsonl').write_text(text, encoding='utf-8')\n",
        encoding="utf-8",
    )
    words = ("task=says", "dataset=one", "run_control_trials=false", "primary_metric=null")
    done = shell("-m", *words, "lora.rank=4,8", *DRY, env={"PYTHONIOENCODING": "ascii"})
    assert done.status == 0, done.err + done.out
