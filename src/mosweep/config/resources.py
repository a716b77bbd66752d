"""The resources that stages request, from ``conf/resources``.

Key by key, ``stages`` wins over ``models``, which wins over ``default``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mosweep.core import schema
from mosweep.core.errors import ConfigError, UserError
from mosweep.core.work import Resources

__all__ = ["Request", "combined", "gigabytes"]

_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|)", re.IGNORECASE)
_UNITS = {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1.0, "T": 1024.0}
_GPUS = re.compile(
    r"(?:gres[:/])?gpu(?::(?P<type>[\w.-]*[A-Za-z][\w.-]*|\d+(?=:)))?(?::(?P<number>\d+))?"
    r"|(?P<only>\d+)"
)


@dataclass(frozen=True)
class Request:
    """The group ``resources``: the resources that stages request.

    Sections have the keys of ``Resources``, or Slurm's ``mem``, ``time`` and ``gres``.
    """

    default: Mapping[str, Any] = field(default_factory=dict)
    """The resources of all stages."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The resources of a model's stages, by the model's name. They win over ``default``."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The resources by kind of stage (``data``, ``finetune``, ``eval`` …). They win over
    ``models``.
    """

    def __post_init__(self) -> None:
        _resources("default", self.default)
        for group, sections in (("models", self.models), ("stages", self.stages)):
            for name, section in sections.items():
                _resources(f"{group}.{name}", section)

    def of(self, model: str | None, kind: str, *, computes: bool = True) -> Resources:
        """The resources of a stage of ``kind`` in a trial of ``model``.

        ``model`` is ``None`` for a stage that is the same for all models. A stage that does not
        compute with the model itself (it builds data, or calls an API) requests no GPU unless
        ``stages`` says so.
        """
        merged: dict[str, Any] = {}
        for place, section in (
            ("default", self.default),
            (f"models.{model}", self.models.get(model, {}) if model is not None else {}),
            (f"stages.{kind}", self.stages.get(kind, {})),
        ):
            if place.startswith("stages") and not computes:
                merged |= {"gpus": 0, "gpu_type": None, "nodes": None}
            merged |= _translated(place, section)
        resources = schema.build(Resources, merged, "resources")
        if resources.gpu_type and resources.gpus is None:
            raise ConfigError("resources.gpu_type", resources.gpu_type, "give gpus as well")
        return resources


def combined(stages: Iterable[Resources]) -> dict[str, Any]:
    """The resources of one job that runs all ``stages`` in sequence: the maximum of each.

    ``UserError`` if the stages request different values that are not numbers.
    """
    total: dict[str, Any] = {}
    for resources in stages:
        for key, value in schema.plain(resources).items():
            if value is None or value == {}:
                continue
            if key in total and total[key] != value and not isinstance(value, int | float):
                raise UserError(
                    f"resources.{key}: the stages of a trial request both {total[key]} and "
                    f"{value}, so they cannot run as one job"
                )
            total[key] = (
                max(total[key], value) if key in total and isinstance(value, int | float) else value
            )
    return total


def _resources(place: str, section: Mapping[str, Any]) -> Resources:
    return schema.build(Resources, _translated(place, section), place)


def _translated(place: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with Slurm's spellings translated to the fields of ``Resources``."""
    result: dict[str, Any] = {}
    for key, value in section.items():
        path = f"{place}.{key}"
        if value is None:
            continue
        if key == "mem":
            result["mem_gb"] = gigabytes(path, value)
        elif key == "time":
            result["time_min"] = _minutes(path, value)
        elif key == "gres":
            result["gpus"], result["gpu_type"] = _gpus(path, value)
        else:
            result[key] = value
    return result


def gigabytes(path: str, value: Any) -> float:
    """Parse Slurm's ``--mem``: a number with a suffix K, M, G or T, or a number of megabytes.

    A number below 1000 without a suffix is refused: it is rarely meant as megabytes.
    """
    match = _MEMORY.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ConfigError(path, value, "expected Slurm's form, such as 4000, 512M or 80G")
    number, unit = float(match[1]), (match[2] or "").upper()
    if not unit and 0 < number < 1000:
        raise ConfigError(
            path, value, f"Slurm reads this as megabytes; write {match[1]}G or {match[1]}M"
        )
    if not number:
        raise ConfigError(
            path, value, "for all of a node's memory write additional_parameters: {mem: 0}"
        )
    return number * _UNITS[unit or "M"]


def _minutes(path: str, value: Any) -> float:
    """Parse Slurm's ``--time``: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    A number of 60 or more is refused, because YAML reads 1:30 as 90.
    """
    if isinstance(value, int) and value >= 60:
        clock = (
            f"{value // 3600}:{value // 60 % 60:02}:{value % 60:02}"
            if value >= 3600
            else f"{value // 60}:{value % 60:02}"
        )
        raise ConfigError(
            path,
            value,
            f'ambiguous: YAML reads {clock} without quotes as {value}; write time: "{clock}", or '
            f"time_min: {value}",
        )
    text = str(value)
    days, dash, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        if dash:
            hours, minutes, seconds = (*parts, *[0] * (3 - len(parts)))
            return int(days) * 1440 + hours * 60 + minutes + seconds / 60
        if len(parts) == 1:
            return float(parts[0])
        if len(parts) == 2:
            return parts[0] + parts[1] / 60
        hours, minutes, seconds = parts
    except ValueError:
        raise ConfigError(
            path, value, 'expected Slurm\'s form, such as 30, "00:30:00" or "1-12"'
        ) from None
    return hours * 60 + minutes + seconds / 60


def _gpus(path: str, value: Any) -> tuple[int, str | None]:
    """Parse Slurm's ``--gres`` for GPUs, their number and type: ``1``, ``gpu:2``, ``gpu:a100:2``.

    Without a number it is one.
    """
    match = _GPUS.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ConfigError(
            path,
            value,
            "expected GPUs, such as 1, gpu:2 or gpu:a100:2; for others write "
            f"additional_parameters: {{gres: {value}}}",
        )
    number = match["number"] or match["only"] or 1
    return int(number), match["type"]
