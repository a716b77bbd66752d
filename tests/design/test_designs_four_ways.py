"""Designs of Cruijff's kind, each written four ways: the same trials with the same keys, however
they are written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mosweep.core.types import Trial
from mosweep.design.application import planned

ROWS = [
    {
        "messages": [
            {"role": "user", "content": word},
            {"role": "assistant", "content": word.upper()},
        ]
    }
    for word in ("one", "two")
]

#: Controls, treatments, and how many trials that makes: tuned ones, and control trials of untouched
#: models.
DESIGNS: dict[str, tuple[dict[str, Any], dict[str, list[Any]], int, int]] = {
    "ranks": ({"lora.alpha": 32}, {"lora.rank": [4, 64]}, 2, 1),
    "models": ({"lora.rank": 8}, {"model": ["tiny", "tiny-wide"]}, 2, 2),
    "data sets": ({"data_dir": "sets", "lora.alpha": 32}, {"dataset": ["short", "long"]}, 2, 2),
    "all of it": (
        {"data_dir": "sets", "lora.alpha": 32},
        {"model": ["tiny", "tiny-wide"], "dataset": ["short", "long"], "lora.rank": [4, 64]},
        8,
        4,
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two data sets of one's own."""
    (tmp_path / "sets").mkdir()
    for name, times in (("short", 20), ("long", 50)):
        (tmp_path / "sets" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in ROWS * times)
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(
    folder: Path, controls: dict[str, Any], treatments: dict[str, list[Any]]
) -> dict[str, list[str]]:
    """The overrides of a design, by the way it is written."""
    (folder / "conf" / "experiment").mkdir(parents=True)
    design = {"controls": controls, "treatments": treatments}
    (folder / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n" + yaml.safe_dump(design, sort_keys=False)
    )
    for name, part in design.items():
        (folder / f"{name}.json").write_text(json.dumps(part))
    return {
        "command line": [
            *(f"{key}={level}" for key, level in controls.items()),
            *(f"{key}={','.join(map(str, levels))}" for key, levels in treatments.items()),
        ],
        "YAML": ["experiment=mine"],
        "JSON": [f"controls={json.dumps(controls)}", f"treatments={json.dumps(treatments)}"],
        "JSON files": ["controls=@controls.json", "treatments=@treatments.json"],
    }


def keys(trial: Trial) -> list[tuple[str, str]]:
    return [(stage.label, stage.key) for stage in trial.stages]


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_is_the_same_however_it_is_written(folder: Path, name: str) -> None:
    controls, treatments, tuned, untouched = DESIGNS[name]
    seen = {}
    for way, overrides in written(folder, controls, treatments).items():
        trials, config = planned(overrides)
        assert (
            sum(not trial.control for trial in trials),
            sum(trial.control for trial in trials),
        ) == (tuned, untouched), way
        assert config.lora.alpha == controls.get("lora.alpha"), way
        assert all(
            set(trial.factors) == set(treatments) for trial in trials if not trial.control
        ), way
        seen[way] = {trial.name: keys(trial) for trial in trials}
    assert len(seen) == 4
    assert all(plan == seen["command line"] for plan in seen.values())
    everything = {key for found in seen["command line"].values() for _, key in found}
    assert len(everything) > tuned
