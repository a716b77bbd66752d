"""Every verb that is listed is there and tells what it does, at little cost."""

from __future__ import annotations

import pytest
from tests.conftest import DRY, Shell

from mosweep.cli.main import VERBS, run_verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_verb(verb, ["--help"])
    assert ended.value.code == 0
    shown = {"progress": "status"}.get(verb, verb)
    assert capsys.readouterr().out.startswith(f"usage: mosweep {shown} ")


def test_without_words_it_prints_help_and_runs_nothing(shell: Shell) -> None:
    for words in ((), ("help",)):
        done = shell(*words)
        assert done.status == 0, done.err
        assert "run a sweep, such as" in done.out
        assert "  analyze " in done.out
    assert shell.files() == set()


def test_help_explains_a_key(shell: Shell) -> None:
    done = shell("help", "lora.rank")
    assert done.out.startswith("lora.rank: whole number or null, ≥ 1; default null\n    Rank of")
    section = shell("help", "optim")
    assert all(f"optim.{key}: " in section.out for key in ("lr", "epochs", "batch_size"))
    of_one = shell("help", "backend.item_sd")
    assert "(backend=dummy only)" in of_one.out
    wrong = shell("help", "lora.rnk")
    assert (wrong.status, "did you mean lora.rank" in wrong.err) == (2, True)


def test_list_shows_sweeps_latest_first(shell: Shell) -> None:
    assert "no sweep" in shell("list").out
    for name in ("one", "two"):
        assert shell("-m", *DRY, f"experiment.name={name}", "seed=0,1").status == 0
    failed = shell("-m", *DRY, "experiment.name=three", "backend.fail=oom")
    assert failed.status == 1
    rows = shell("list", "--json").json
    assert [row["name"] for row in rows] == ["three", "two", "one"]
    assert rows[1]["status"] == {"succeeded": 3}
    assert rows[0]["status"]["failed"] == 1
    assert "3 succeeded" in shell("list").out


def test_a_sweep_that_succeeded_names_the_next_command(shell: Shell) -> None:
    done = shell("-m", *DRY, "experiment.name=one")
    assert "next: mosweep analyze one" in done.out
    assert shell("analyze", "one").status == 0
