"""Every file under conf/ composes and builds; recipes and tasks are what the configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell

from mosweep.backends.torchtune.works import TorchtuneFinetune
from mosweep.core.errors import ConfigError
from mosweep.core.paths import shipped
from mosweep.core.types import Stage
from mosweep.core.work import FINETUNE
from mosweep.design.application import planned

CONF = shipped("conf")
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "experiment", "setting")
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))


#: What goes with a choice that does not go with the defaults.
WITH = {"backend=openai": ["model=gpt-4.1-mini"]}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_builds(choice: str) -> None:
    trials, _ = planned(
        [choice, "backend=dummy"]
        if not choice.startswith("backend")
        else [choice, *WITH.get(choice, [])]
    )
    assert [trial.control for trial in trials] == [False, True]


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_builds(name: str) -> None:
    trials, config = planned([f"experiment={name}"])
    assert config.experiment.name == name
    assert len({trial.id for trial in trials}) == len(trials) > 1


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "setting").glob("*.yaml")))
def test_every_setting_builds(name: str) -> None:
    trials, _ = planned([f"setting={name}"])
    assert len({trial.id for trial in trials}) == len(trials) > 1


def torchtune(stage: Stage) -> Mapping[str, Any]:
    """What torchtune is given."""
    assert isinstance(stage.work, TorchtuneFinetune)
    return stage.work.config


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_every_model_can_be_fine_tuned(name: str) -> None:
    backend = {"gpt": ["backend=openai"], "qwen3": ["backend=tinker"]}.get(
        name.partition("-")[0], []
    )
    trials, _ = planned([f"model={name}", *backend])
    finetune = next(stage for stage in trials[0].stages if stage.kind == FINETUNE)
    if not backend:
        assert torchtune(finetune)["model"]["_component_"].startswith("torchtune.models.")


def test_explicit_values_win_over_derived_ones_and_defaults() -> None:
    def native(*overrides: str) -> Stage:
        trials, _ = planned([*overrides])
        return next(stage for stage in trials[0].stages if stage.kind == FINETUNE)

    assert torchtune(native("lora.rank=16"))["model"]["lora_alpha"] == 32
    assert torchtune(native("lora.rank=4", "lora.alpha=32"))["model"]["lora_alpha"] == 32
    assert native("lora.rank=16", "lora.alpha=32").key == native("lora.rank=16").key
    assert torchtune(native("torchtune.model.lora_rank=8"))["model"]["lora_rank"] == 8
    assert (
        native("torchtune.optimizer.weight_decay=0.1").key == native("optim.weight_decay=0.1").key
    )
    assert native("optim.lr=0.01").key == native("optim.lr=1e-2").key != native("optim.lr=0.02").key


def test_the_key_is_the_science(tmp_path: Path) -> None:
    def keys(*overrides: str) -> list[str]:
        return [stage.key for trial in planned(list(overrides))[0] for stage in trial.stages]

    plain = keys("lora.rank=4")
    for circumstance in (
        "experiment.name=x",
        "tracking=none",
        f"store.dir={tmp_path}",
        "backend.python=/usr/bin/python3",
        "backend.device=cuda",
        "resources.default.gpus=4",
        "resources.models.tiny.mem=80G",
        "hydra.launcher.workers=7",
        "inspect.max_connections=3",
        "primary_metric=x",
    ):
        assert keys("lora.rank=4", circumstance) == plain, circumstance
    for science in (
        "seed=1",
        "lora.alpha=4",
        "model=tiny-wide",
        "dataset=words_small",
        "optim.epochs=1",
        "inspect.limit=5",
    ):
        assert keys("lora.rank=4", science) != plain, science


def test_two_names_of_one_model_share_its_fine_tune(tmp_path: Path) -> None:
    text = Path(CONF / "model" / "tiny.yaml").read_text()
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "again.yaml").write_text(
        text.replace("name: tiny", "name: again")
    )
    trials, _ = planned(["model=tiny,again"])
    assert trials[0].stages[-1].key == trials[1].stages[-1].key
    assert [trial.factors["model"] for trial in trials[:2]] == ["tiny", "again"]


def test_a_wrong_primary_metric_is_found_out(shell: Shell) -> None:
    done = shell("backend=dummy", "tracking=none", "primary_metric=capitalization/acuracy")
    assert done.status == 1
    assert "capitalization/score" in done.err


def test_resources_of_stage_over_model_over_default() -> None:
    trials, _ = planned(
        [
            "model=tiny,tiny-wide",
            "resources.default.gpus=1",
            "resources.models.tiny-wide.gpus=4",
            "resources.stages.eval.gpus=0",
        ]
    )
    gpus = {
        (trial.name, stage.kind.name): stage.resources.gpus
        for trial in trials
        for stage in trial.stages
    }
    assert (
        gpus["model=tiny", "finetune"],
        gpus["model=tiny-wide", "finetune"],
        gpus["model=tiny-wide", "eval"],
    ) == (1, 4, 0)
    with pytest.raises(ConfigError, match="gpuss"):
        planned(["resources.default.gpuss=1"])
