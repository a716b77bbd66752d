"""Every verb that is listed is there and tells what it does, at little cost."""

from __future__ import annotations

import pytest

from mosweep.cli.main import VERBS
from mosweep.cli.verbs import run_verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_verb(verb, ["--help"])
    assert ended.value.code == 0
    shown = {"progress": "status"}.get(verb, verb)
    assert capsys.readouterr().out.startswith(f"usage: mosweep {shown} ")
