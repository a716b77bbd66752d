"""torchtune's native configuration: read it, change it strictly, and share it between processes.

This module must not import torch or torchtune.

A setting can be changed if the recipe file has it. Any other setting is an error. To use another
of torchtune's options, list it with its default in your own recipe file. mosweep sets the settings
that describe the run and not the experiment. They are not part of a key, and
``run_config.complete`` fills them in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mosweep.core.errors import ConfigError, UserError, choices
from mosweep.core.yaml_text import load_yaml

__all__ = [
    "COMPONENT",
    "DISTRIBUTED",
    "OWNED",
    "check",
    "leaves",
    "load_recipe",
    "merge",
    "set_path",
    "share",
    "steps_of",
]

COMPONENT = "_component_"
PREFIX = "torchtune"

_PLACE = "mosweep decides where files are stored"
_BASE = "it follows from the base model"
_ADAPTER = (
    "mosweep saves only the adapter and merges it itself (torchtune corrupts the live weights when "
    "it saves merged ones)"
)
_CURVE = "mosweep reads the loss of every step from it"

#: Settings that mosweep fills in, and why they cannot be set. A section includes all its keys.
OWNED: dict[str, str] = {
    "output_dir": _PLACE,
    "checkpointer": _BASE,
    "resume_from_checkpoint": _ADAPTER,
    "save_adapter_weights_only": _ADAPTER,
    "dataset.source": "it is the data set of the trial (dataset=…)",
    "dataset.data_files": "it is the data set of the trial (dataset=…)",
    "dataset.split": "it is the data set of the trial (dataset=…)",
    "dataset.conversation_column": "data sets are in OpenAI's chat format",
    "dataset.conversation_style": "data sets are in OpenAI's chat format",
    "tokenizer.path": _BASE,
    "tokenizer.merges_file": _BASE,
    "tokenizer.special_tokens_path": _BASE,
    "metric_logger": _CURVE,
    "log_every_n_steps": _CURVE,
    "profiler.output_dir": _PLACE,
    **{
        f"model.{name}": _BASE
        for name in (
            "vocab_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "embed_dim",
            "intermediate_dim",
            "max_seq_len",
            "norm_eps",
            "rope_base",
            "scale_factor",
            "tie_word_embeddings",
        )
    },
}

#: The multi-process variants of single-process recipes.
DISTRIBUTED = {"lora_finetune_single_device": "lora_finetune_distributed"}


def load_recipe(path: str | Path) -> dict[str, Any]:
    """The native config in the file ``path``, as plain data."""
    try:
        data = load_yaml(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"the torchtune recipe {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(
            f"the torchtune recipe {path} is not YAML: {' '.join(str(error).split())}"
        ) from error
    if (
        not isinstance(data, dict)
        or not isinstance(data.get("model"), dict)
        or COMPONENT not in data["model"]
    ):
        raise UserError(f"{path} is not a torchtune recipe: it has no model.{COMPONENT}")
    return data


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all settings."""
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path


def merge(recipe: Mapping[str, Any], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """``recipe`` overridden by the layers in order.

    A layer maps names, or dotted paths, to values or sections.
    """
    config = dict(recipe)
    for layer in layers:
        for path, value in layer.items():
            config = set_path(config, str(path), value)
    return config


def set_path(config: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy of ``config`` with one setting changed or, for a mapping, settings of one section.

    A mapping that names a ``_component_`` replaces the whole section. Raises ``ConfigError`` for a
    setting that the native config does not have or that mosweep fills in, and for a value whose
    type differs from the recipe's.
    """
    where = f"{PREFIX}.{dotted}"
    for owned, reason in OWNED.items():
        if dotted == owned or dotted.startswith(f"{owned}."):
            raise ConfigError(where, value, f"cannot be set: {reason}")
    parts = dotted.split(".")
    old = _lookup(config, parts, where, value)
    replaces = isinstance(value, Mapping) and COMPONENT in value
    if isinstance(value, Mapping) and isinstance(old, Mapping) and not replaces:
        return merge(config, {f"{dotted}.{key}": item for key, item in value.items()})
    if isinstance(old, Mapping) and not replaces:
        raise ConfigError(
            where, value, f"is a section; set one of {', '.join(leaves(old, f'{where}.'))}"
        )
    if isinstance(old, Mapping):
        value = {**value, **{k: old[k] for k in old if f"{dotted}.{k}" in OWNED and k not in value}}
    else:
        _check_type(where, old, value)
    return _replaced(config, parts, value)


def _lookup(config: Mapping[str, Any], parts: list[str], where: str, value: Any) -> Any:
    node: Any = config
    for depth, part in enumerate(parts):
        if not isinstance(node, Mapping):
            raise ConfigError(
                where, value, f"{PREFIX}.{'.'.join(parts[:depth])} is a setting, not a section"
            )
        if part not in node:
            valid = [
                path
                for path in leaves(config)
                if not any(path == o or path.startswith(f"{o}.") for o in OWNED)
            ]
            raise ConfigError(
                where,
                value,
                "the native config has no such setting; "
                f"{choices('.'.join(parts), valid, limit=60)}",
            )
        node = node[part]
    return node


def _replaced(config: Mapping[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    head, *rest = parts
    return {**config, head: _replaced(config[head], rest, value) if rest else value}


def _check_type(where: str, old: Any, value: Any) -> None:
    if where == f"{PREFIX}.dtype" and value not in ("auto", "fp32", "bf16"):
        raise ConfigError(where, value, "valid: auto (bf16 on a GPU, fp32 on a CPU), bf16, fp32")
    if old is None or value is None:
        return
    if isinstance(old, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(old, int):
        fits, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif isinstance(old, float):
        fits, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(old, list | tuple):
        fits, expected = isinstance(value, list | tuple), "a list"
    else:
        fits, expected = isinstance(value, str), "text"
    if not fits:
        raise ConfigError(where, value, f"expected {expected}, as in the recipe ({old})")


def steps_of(config: Mapping[str, Any], rows: int) -> int:
    """The number of optimizer steps that the stock recipe takes on ``rows`` samples.

    It drops an incomplete last batch.
    """
    per_epoch: int = rows // config["batch_size"] // config["gradient_accumulation_steps"]
    limit = config.get("max_steps_per_epoch")
    return int(config["epochs"]) * (min(per_epoch, limit) if limit else per_epoch)


def check(config: Mapping[str, Any], rows: int) -> None:
    """Raise ``ConfigError`` if a data set of ``rows`` samples is too small for one step."""
    if steps_of(config, rows) < 1:
        batch = config["batch_size"] * config["gradient_accumulation_steps"]
        problem = (
            f"the data set is too small for one step: a step needs {batch} samples (batch_size · "
            f"gradient_accumulation_steps), and there are {rows}"
        )
        raise ConfigError(f"{PREFIX}.batch_size", config["batch_size"], problem)


def share(
    config: Mapping[str, Any], processes: int, nodes: int = 1, rows: int | None = None
) -> dict[str, Any]:
    """The config of each process, for ``processes`` on each of ``nodes``.

    Together they take the same steps as one process would. ``batch_size`` in ``config`` counts the
    samples of all processes, and in the result those of each process. ``rows``: the number of
    samples in the data set, if known. Raises ``ConfigError`` if the processes cannot share a batch
    evenly.
    """
    world, batch = processes * nodes, config["batch_size"]
    if world == 1:
        return dict(config)
    if batch % world:
        valid = ", ".join(str(count) for count in range(1, batch + 1) if batch % count == 0)
        problem = (
            f"{world} processes (gpus · nodes) cannot share batch_size={batch} evenly; valid: "
            f"{valid} processes"
        )
        problem += f", or a batch_size that is a multiple of {world}"
        raise ConfigError("resources.gpus", processes, problem)
    shared = {**config, "batch_size": batch // world}
    if rows is not None and not config["dataset"].get("packed"):
        # The sampler pads its last round with samples. They could complete a batch that one process
        # would drop.
        shared["max_steps_per_epoch"] = steps_of(config, rows) // int(config["epochs"])
    return shared
