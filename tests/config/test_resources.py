from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mosweep.config.resources import Request
from mosweep.core import schema
from mosweep.core.errors import ConfigError
from mosweep.core.work import Resources
from mosweep.design.application import planned


def request(**sections: Any) -> Request:
    return schema.build(Request, sections, "resources")


def test_nothing_asked_is_nothing_set() -> None:
    assert request().of("tiny", "eval") == Resources()


def test_stages_over_models_over_default_key_by_key() -> None:
    asked = request(
        default={"gpus": 0, "cpus": 1, "mem_gb": 4, "partition": "cpu"},
        models={"tiny": {"cpus": 2, "mem_gb": 8}, "large": {"gpus": 4}},
        stages={"finetune": {"mem_gb": 16, "time_min": 60}, "eval": {"gpus": 1}},
    )
    assert asked.of("tiny", "finetune") == Resources(
        gpus=0, cpus=2, mem_gb=16, partition="cpu", time_min=60
    )
    assert asked.of("tiny", "eval") == Resources(gpus=1, cpus=2, mem_gb=8, partition="cpu")
    assert asked.of("large", "data") == Resources(gpus=4, cpus=1, mem_gb=4, partition="cpu")
    assert asked.of("unknown", "data") == Resources(gpus=0, cpus=1, mem_gb=4, partition="cpu")


def test_slurms_spellings_override_ours_and_the_other_way_round() -> None:
    asked = request(
        default={"mem_gb": 4, "gres": "gpu:1"},
        models={"m": {"mem": "8G"}},
        stages={"eval": {"gpus": 2}},
    )
    assert asked.of("m", "eval") == Resources(mem_gb=8, gpus=2)


@pytest.mark.parametrize("key", ["mem", "time", "gres", "gpus", "mem_gb", "partition"])
def test_null_leaves_the_choice_to_the_section_below(key: str) -> None:
    values = {"mem": "1G", "time": 5, "gres": "gpu:1", "gpus": 1, "mem_gb": 1, "partition": "p"}
    assert request(stages={"eval": {key: None}}).of("m", "eval") == Resources()
    assert request(default={key: values[key]}, stages={"eval": {key: None}}).of(
        "m", "eval"
    ) == request(default={key: values[key]}).of("m", "eval")


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [
        ("4096", 4.0),
        (16000, 15.625),
        ("512M", 0.5),
        ("8GiB", 8.0),
        ("80G", 80.0),
        ("80g", 80.0),
        ("80GB", 80.0),
        ("1T", 1024.0),
        ("1048576K", 1.0),
        (" 2.5G ", 2.5),
    ],
)
def test_memory_as_slurm_takes_it(text: Any, gigabytes: float) -> None:
    assert request(default={"mem": text}).of("m", "eval").mem_gb == gigabytes


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        (30, 30.0),
        ("30", 30.0),
        (59, 59.0),
        ("90", 90.0),
        ("1:30", 1.5),
        ("1:30:00", 90.0),
        ("100:00:00", 6000.0),
        ("10:30", 10.5),
        ("01:30:00", 90.0),
        ("00:00:30", 0.5),
        ("1-0", 1440.0),
        ("1-12", 2160.0),
        ("1-12:30", 2190.0),
        ("2-01:02:30", 2942.5),
    ],
)
def test_time_as_slurm_takes_it(text: Any, minutes: float) -> None:
    assert request(default={"time": text}).of("m", "eval").time_min == minutes


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_times_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = pytest.approx(days * 1440 + hours * 60 + minutes + seconds / 60)
    assert (
        request(default={"time": f"{days}-{hours:02}:{minutes:02}:{seconds:02}"})
        .of("m", "eval")
        .time_min
        == expected
    )
    assert (
        request(default={"time": f"{days * 24 + hours}:{minutes}:{seconds}"})
        .of("m", "eval")
        .time_min
        == expected
    )


@given(
    st.integers(0, 100),
    st.integers(0, 59),
    st.integers(0, 59),
    st.sampled_from(["{}:{:02}:{:02}", "{:02}:{:02}:{:02}", "{}:{}:{}", "{1}:{2:02}"]),
)
def test_a_time_without_quotes_is_right_or_refused(
    hours: int, minutes: int, seconds: int, form: str
) -> None:
    text = form.format(hours, minutes, seconds)
    expected = minutes + seconds / 60 + (hours * 60 if text.count(":") == 2 else 0)
    section = {"time": OmegaConf.create(f"time: {text}").time}
    if expected == 0 or isinstance(section["time"], int):
        with pytest.raises(ConfigError):
            request(default=section)
    else:
        assert request(default=section).of("m", "eval").time_min == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "in_file", "in_command"),
    [
        ("30", 30, 30),
        ("'90'", 90, 90),
        ("90", None, None),
        ("1:30:00", None, 90),
        ("30:00", None, 30),
        ("01:30:00", 90, 90),
        ("00:30", 0.5, 0.5),
        ("1-12", 2160, 2160),
        ("1-12:30", 2190, 2190),
        ("'1:30:00'", 90, 90),
    ],
)
def test_a_time_in_a_file_and_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    in_file: float | None,
    in_command: float | None,
) -> None:
    (tmp_path / "conf" / "resources").mkdir(parents=True)
    (tmp_path / "conf" / "resources" / "mine.yaml").write_text(
        f"default: {{}}\nmodels: {{}}\nstages:\n  eval:\n    time: {text}\n"
    )
    monkeypatch.chdir(tmp_path)
    for words, minutes in (
        (["resources=mine"], in_file),
        ([f"+resources.stages.eval.time={text}"], in_command),
    ):
        if minutes is None:
            with pytest.raises(
                ConfigError,
                match=r'resources\.stages\.eval\.time=\d+: .* write time: "[\d:]+", or time_min: '
                r"\d+",
            ):
                planned(["backend=dummy", "control=true", *words])
        else:
            [trial], _ = planned(["backend=dummy", "control=true", *words])
            assert trial.stages[-1].resources.time_min == minutes


@pytest.mark.parametrize(
    ("text", "gpus", "kind"),
    [
        (1, 1, None),
        ("2", 2, None),
        ("gpu", 1, None),
        ("gpu:2", 2, None),
        ("gpu:a100", 1, "a100"),
        ("gpu:a100:4", 4, "a100"),
        ("gres/gpu:h100.80gb:2", 2, "h100.80gb"),
        ("gpu:3090:2", 2, "3090"),
        (0, 0, None),
    ],
)
def test_gpus_as_slurm_takes_them(text: Any, gpus: int, kind: str | None) -> None:
    asked = request(default={"gres": text}).of("m", "eval")
    assert (asked.gpus, asked.gpu_type) == (gpus, kind)


def test_the_type_of_gpu_belongs_to_the_number() -> None:
    asked = request(default={"gres": "gpu:a100:2"}, models={"m": {"gres": 1}, "n": {"gpus": 4}})
    assert [(r.gpus, r.gpu_type) for r in (asked.of("m", "eval"), asked.of("n", "eval"))] == [
        (1, None),
        (4, "a100"),
    ]
    data = asked.of("m", "data", computes=False)
    assert (data.gpus, data.gpu_type) == (0, None)
    with pytest.raises(ConfigError, match="gpu_type=a100: give gpus as well"):
        request(default={"gpu_type": "a100"}).of("m", "eval")


@pytest.mark.parametrize(
    ("sections", "key", "words"),
    [
        ({"default": {"gpu": 1}}, "resources.default.gpu", "no such key; did you mean gpus"),
        (
            {"models": {"tiny": {"cpuss": 1}}},
            "resources.models.tiny.cpuss",
            "no such key; did you mean cpus",
        ),
        ({"stages": {"eval": {"gpus": -1}}}, "resources.stages.eval.gpus", "must be ≥ 0"),
        ({"stages": {"eval": {"cpus": 0}}}, "resources.stages.eval.cpus", "must be ≥ 1"),
        ({"default": {"cpus": "many"}}, "resources.default.cpus", "whole number"),
        ({"default": {"mem": "lots"}}, "resources.default.mem", "4000, 512M or 80G"),
        ({"default": {"mem": ""}}, "resources.default.mem", "Slurm's form"),
        ({"default": {"mem": "G"}}, "resources.default.mem", "Slurm's form"),
        ({"default": {"mem": "80X"}}, "resources.default.mem", "Slurm's form"),
        ({"default": {"mem": "nan"}}, "resources.default.mem", "Slurm's form"),
        ({"default": {"mem": 0}}, "resources.default.mem", "additional_parameters: {mem: 0}"),
        ({"default": {"mem": 8}}, "resources.default.mem", "write 8G or 8M"),
        ({"models": {"m": {"mem": "512"}}}, "resources.models.m.mem", "write 512G or 512M"),
        ({"stages": {"eval": {"mem": 1.5}}}, "resources.stages.eval.mem", "write 1.5G or 1.5M"),
        ({"default": {"mem": True}}, "resources.default.mem", "Slurm's form"),
        ({"default": {"gres": "shard:1"}}, "resources.default.gres", "{gres: shard:1}"),
        ({"default": {"gres": "gpu:a100:2,nvme:1"}}, "resources.default.gres", "expected GPUs"),
        ({"default": {"gres": "gpu:a100:two"}}, "resources.default.gres", "expected GPUs"),
        ({"default": {"time": "soon"}}, "resources.default.time", "Slurm's form"),
        ({"default": {"time": "1:2:3:4"}}, "resources.default.time", "Slurm's form"),
        ({"default": {"time": "1-2:3:4:5"}}, "resources.default.time", "Slurm's form"),
        ({"default": {"time": "-5"}}, "resources.default.time", "Slurm's form"),
        ({"default": {"time": ""}}, "resources.default.time", "Slurm's form"),
        ({"default": {"time": 0}}, "resources.default.time_min", "must be > 0"),
        (
            {"default": {"time": 60}},
            "resources.default.time",
            'write time: "1:00", or time_min: 60',
        ),
        (
            {"models": {"m": {"time": 90}}},
            "resources.models.m.time",
            'YAML reads 1:30 without quotes as 90; write time: "1:30"',
        ),
        (
            {"stages": {"eval": {"time": 5400}}},
            "resources.stages.eval.time",
            'write time: "1:30:00", or time_min: 5400',
        ),
        ({"default": {"time": 5400.5}}, "resources.default.time", "Slurm's form"),
        ({"default": {"time": -90}}, "resources.default.time", "Slurm's form"),
        ({"defaults": {}}, "resources.defaults", "no such key; did you mean default"),
        ({"models": {"tiny": 3}}, "resources.models.tiny", "expected a mapping"),
    ],
)
def test_mistakes_are_found_when_the_section_is_read(
    sections: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        request(**sections)
    assert caught.value.key == key
    assert words in caught.value.problem
