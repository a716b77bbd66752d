"""torchtune's native configuration: read it, change it strictly, and complete it for one run.

This module must not import torch or torchtune.

A setting can be changed if the recipe's file has it. Anything else is an error: no setting is
silently ignored. To use another of torchtune's options, list it with its default in your own
recipe file. Settings that describe the run and not the experiment belong to mosweep. They are not
part of a key, and ``complete`` fills them in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mosweep.core.errors import ConfigError, UserError, choices

__all__ = [
    "COMPONENT",
    "DISTRIBUTED",
    "OWNED",
    "architecture_of",
    "check",
    "complete",
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
    "mosweep saves the adapter alone and merges it itself (saving merged weights each epoch "
    "corrupts the live ones)"
)
_CURVE = "mosweep reads the loss of every step from it"

#: Settings that mosweep fills in, and why they cannot be set. A section stands for all its keys.
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

#: For a single-process recipe, the recipe that does the same in several processes.
DISTRIBUTED = {"lora_finetune_single_device": "lora_finetune_distributed"}

#: Builders that take any dimensions, and their model type. The dimensions come from the base
#: model's ``config.json``.
SIZED_BY_BASE = {
    "torchtune.models.llama3_2.lora_llama3_2": "llama",
    "torchtune.models.qwen2.lora_qwen2": "qwen2",
}


class _Loader(yaml.SafeLoader):
    """YAML as torchtune itself reads it: ``3e-4`` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))$"
    ),
    list("-+0123456789."),
)


def load_recipe(path: str | Path) -> dict[str, Any]:
    """The native config in the file ``path``, as plain data."""
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
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
    setting that the native config does not have, for one that mosweep decides, and for a value of
    another type than the recipe's.
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


def architecture_of(base: Path, max_seq_len: int | None = None) -> dict[str, Any]:
    """The arguments of torchtune's builder for the model in ``base``, from its ``config.json``.

    ``max_seq_len`` (in tokens) limits the table of rotary embeddings. By default it is the model's
    context length. Raises ``ConfigError`` if torchtune's Llama or Qwen2 builder would silently
    build a different model.
    """
    config = _model_config(base)
    kind = config.get("model_type")

    def refuse(name: str, problem: str) -> ConfigError:
        return ConfigError(
            "model.path", base, f"config.json has {name}={config.get(name)}: {problem}"
        )

    if kind not in SIZED_BY_BASE.values():
        raise refuse(
            "model_type",
            f"valid for a recipe without dimensions: {', '.join(SIZED_BY_BASE.values())}",
        )
    heads, width = config["num_attention_heads"], config["hidden_size"]
    if (config.get("head_dim") or width // heads) * heads != width:
        raise refuse(
            "head_dim",
            f"torchtune's builder has {width // heads} (hidden_size / num_attention_heads)",
        )
    if config.get("hidden_act", "silu") != "silu":
        raise refuse("hidden_act", "torchtune's builder has silu")
    for name in (
        "mlp_bias",
        "use_sliding_window",
        *(("attention_bias",) if kind == "llama" else ()),
    ):
        if config.get(name):
            raise refuse(name, "torchtune's builder has none")
    context = config["max_position_embeddings"]
    # transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
    rope = config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta", 10000.0),
        **(config.get("rope_scaling") or {}),
    }
    scaling = rope.get("rope_type", rope.get("type", "default"))
    architecture = {
        COMPONENT: next(
            component for component, model_type in SIZED_BY_BASE.items() if model_type == kind
        ),
        "vocab_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "embed_dim": width,
        "intermediate_dim": config["intermediate_size"],
        "max_seq_len": min(context, max_seq_len or context),
        "norm_eps": config["rms_norm_eps"],
        "rope_base": rope["rope_theta"],
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }
    if kind == "llama":
        fixed = {
            "low_freq_factor": 1,
            "high_freq_factor": 4,
            "original_max_position_embeddings": 8192,
        }
        if scaling not in ("default", "llama3") or (
            scaling == "llama3" and any(rope.get(k) != v for k, v in fixed.items())
        ):
            raise refuse(
                "rope_scaling",
                "torchtune's builder has rope_type llama3 with the factors 1 and 4 and 8192 "
                "positions, or none",
            )
        architecture["rope_base"] = int(rope["rope_theta"])
        architecture["scale_factor"] = rope["factor"] if scaling == "llama3" else 1
    elif scaling != "default":
        raise refuse("rope_scaling", "torchtune's builder has none")
    return architecture


def complete(
    config: Mapping[str, Any], *, base: Path, data: Path, output: Path, device: str | None = None
) -> dict[str, Any]:
    """The native config of one run, with base model, data and output filled in.

    ``device`` overrides the recipe's. The machine that trains resolves ``auto`` for device and
    dtype.
    """
    base, output = base.resolve(), output.resolve()
    tokenizer = dict(config["tokenizer"])
    model = dict(config["model"])
    if model[COMPONENT] in SIZED_BY_BASE:
        length = tokenizer.get("max_seq_len")
        built = architecture_of(base, length if isinstance(length, int) else None)
        if built[COMPONENT] != model[COMPONENT]:
            problem = (
                f"the recipe's builder is {model[COMPONENT]}, but this base model needs "
                f"{built[COMPONENT]}: use another recipe"
            )
            raise ConfigError("model.path", base, problem)
        model |= built
    kind = _model_config(base).get("model_type")
    if kind == "qwen2":
        tokenizer |= {"path": _file(base, "vocab.json"), "merges_file": _file(base, "merges.txt")}
    else:
        tokenizer["path"] = _file(base, "tokenizer.model", "original/tokenizer.model")
        # not Llama 3's vocabulary: its special tokens have other ids
        if _model_config(base)["vocab_size"] < 128_000:
            tokenizer["special_tokens_path"] = _file(base, "tokenizer.json")
    return {
        **config,
        "output_dir": str(output),
        "model": model,
        "tokenizer": tokenizer,
        "dataset": {
            **config["dataset"],
            "source": "json",
            "data_files": str(data.resolve()),
            "split": "train",
        },
        "checkpointer": {
            **config["checkpointer"],
            "checkpoint_dir": str(base),
            "checkpoint_files": _weights(base),
            "recipe_checkpoint": None,
            "output_dir": str(output),
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        "metric_logger": {
            COMPONENT: "torchtune.training.metric_logging.DiskLogger",
            "log_dir": str(output / "logs"),
        },
        "log_every_n_steps": 1,
        "device": device or config.get("device", "auto"),
        "dtype": config.get("dtype", "auto"),
    }


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
            f"no step would be taken: a step needs {batch} samples (batch_size · "
            f"gradient_accumulation_steps), and there are {rows}"
        )
        raise ConfigError(f"{PREFIX}.batch_size", config["batch_size"], problem)


def share(
    config: Mapping[str, Any], processes: int, nodes: int = 1, rows: int | None = None
) -> dict[str, Any]:
    """The config of each process, for ``processes`` on each of ``nodes``.

    Together they take the same steps that one process would. Our ``batch_size`` counts the samples
    of all processes; torchtune's counts those of each process. ``rows``: the number of samples in
    the data set, if known. Raises ``ConfigError`` if the processes cannot share a batch evenly.
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
        # The sampler pads the last round with samples from the first round. They could make up a
        # whole batch that one process would not take.
        shared["max_steps_per_epoch"] = steps_of(config, rows) // int(config["epochs"])
    return shared


def _model_config(base: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((base / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "model.path",
            base,
            f"is not a Hugging Face model folder: no readable config.json ({error})",
        ) from error
    return config


def _weights(base: Path) -> list[str]:
    """The names of the base model's weight files, in the order of the shards."""
    index = base / "model.safetensors.index.json"
    if index.exists():
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return [Path(_file(base, "model.safetensors")).name]


def _file(base: Path, *names: str) -> str:
    for name in names:
        if (base / name).exists():
            return str(base / name)
    raise ConfigError(
        "model.path", base, f"the base model has no {' or '.join(names)}, which torchtune needs"
    )
