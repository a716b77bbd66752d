"""Every key and Slurm spelling of ``resources`` reaches sbatch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mosweep.config.resources import Request
from mosweep.core import schema
from mosweep.core.errors import ConfigError
from mosweep.core.work import Resources
from mosweep.launchers.slurm.options import Slurm
from mosweep.launchers.slurm.script import parameters

#: Each key with a value, and the options of sbatch that it gives.
HONOURED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nodes": ({"nodes": 2}, {"nodes": 2}),
    "ntasks_per_node": ({"ntasks_per_node": 3}, {"ntasks-per-node": 3}),
    "cpus": ({"cpus": 4}, {"cpus-per-task": 4}),
    "gpus": ({"gpus": 2}, {"gpus-per-node": 2}),
    "gpu_type": ({"gpus": 2, "gpu_type": "a100"}, {"gpus-per-node": "a100:2"}),
    "mem_gb": ({"mem_gb": 8}, {"mem": "8192M"}),
    "time_min": ({"time_min": 90}, {"time": "01:30:00"}),
    "account": ({"account": "a"}, {"account": "a"}),
    "partition": ({"partition": "p"}, {"partition": "p"}),
    "qos": ({"qos": "q"}, {"qos": "q"}),
    "constraint": ({"constraint": "c"}, {"constraint": "c"}),
    "additional_parameters": ({"additional_parameters": {"mem": 0}}, {"mem": 0}),
    # Slurm's own spellings.
    "mem": ({"mem": "8G"}, {"mem": "8192M"}),
    "time": ({"time": "1-12"}, {"time": "1-12:00:00"}),
    "gres": ({"gres": "gpu:a100:2"}, {"gpus-per-node": "a100:2"}),
}


@pytest.mark.parametrize(("section", "options"), HONOURED.values(), ids=HONOURED)
def test_what_is_asked_is_what_the_job_asks(
    section: dict[str, Any], options: dict[str, Any]
) -> None:
    asked = schema.build(Request, {"default": section}, "resources").of("m", "finetune")
    given = parameters(Slurm(), asked)
    assert {name: given.get(name) for name in options} == options
    assert given.keys() - options.keys() <= {"nodes", "ntasks-per-node", "time"}


def test_no_key_is_missing() -> None:
    keys = {field.name for field in dataclasses.fields(Resources)}
    assert keys | {"mem", "time", "gres"} == set(HONOURED)


@pytest.mark.parametrize("key", ["mem_per_cpu", "mem_per_gpu"])
def test_memory_of_the_launcher_needs_a_unit_too(key: str) -> None:
    assert parameters(schema.build(Slurm, {key: "4G"}), Resources())[key.replace("_", "-")] == "4G"
    with pytest.raises(ConfigError, match="write 4G or 4M"):
        schema.build(Slurm, {key: "4"})
