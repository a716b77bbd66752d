"""The native configuration of one run: base model, data and output filled in.

This module must not import torch or torchtune.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosweep.backends.torchtune.config import COMPONENT
from mosweep.core.errors import ConfigError

__all__ = ["architecture_of", "complete"]

#: Builders that take any dimensions, and their model type. The dimensions come from the base
#: model's ``config.json``.
SIZED_BY_BASE = {
    "torchtune.models.llama3_2.lora_llama3_2": "llama",
    "torchtune.models.qwen2.lora_qwen2": "qwen2",
}


def architecture_of(base: Path, max_seq_len: int | None = None) -> dict[str, Any]:
    """The arguments of torchtune's builder for the model in ``base``, from its ``config.json``.

    ``max_seq_len`` (in tokens) limits the table of rotary embeddings. By default it is the model's
    context length. Raises ``ConfigError`` if torchtune's Llama or Qwen2 builder would build a
    different model.
    """
    config = _model_config(base)
    _check_buildable(base, config)
    context = config["max_position_embeddings"]
    heads = config["num_attention_heads"]
    return {
        COMPONENT: next(
            component
            for component, model_type in SIZED_BY_BASE.items()
            if model_type == config["model_type"]
        ),
        "vocab_size": config["vocab_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "embed_dim": config["hidden_size"],
        "intermediate_dim": config["intermediate_size"],
        "max_seq_len": min(context, max_seq_len or context),
        "norm_eps": config["rms_norm_eps"],
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        **_rotary(base, config),
    }


def _check_buildable(base: Path, config: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for a model that torchtune's builders do not support."""
    kind = config.get("model_type")
    if kind not in SIZED_BY_BASE.values():
        valid = ", ".join(SIZED_BY_BASE.values())
        raise _unsupported(
            base, config, "model_type", f"valid for a recipe without dimensions: {valid}"
        )
    heads, width = config["num_attention_heads"], config["hidden_size"]
    if (config.get("head_dim") or width // heads) * heads != width:
        problem = f"torchtune's builder has {width // heads} (hidden_size / num_attention_heads)"
        raise _unsupported(base, config, "head_dim", problem)
    if config.get("hidden_act", "silu") != "silu":
        raise _unsupported(base, config, "hidden_act", "torchtune's builder has silu")
    for name in (
        "mlp_bias",
        "use_sliding_window",
        *(("attention_bias",) if kind == "llama" else ()),
    ):
        if config.get(name):
            raise _unsupported(base, config, name, "torchtune's builder has none")


def _rotary(base: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The builder's arguments for the rotary embedding.

    Raises ``ConfigError`` for a scaling that the builder does not support.
    """
    # transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters.
    rope = config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta", 10000.0),
        **(config.get("rope_scaling") or {}),
    }
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if config["model_type"] != "llama":
        if scaling != "default":
            raise _unsupported(base, config, "rope_scaling", "torchtune's builder has none")
        return {"rope_base": rope["rope_theta"]}
    fixed = {
        "low_freq_factor": 1,
        "high_freq_factor": 4,
        "original_max_position_embeddings": 8192,
    }
    if scaling not in ("default", "llama3") or (
        scaling == "llama3" and any(rope.get(k) != v for k, v in fixed.items())
    ):
        raise _unsupported(
            base,
            config,
            "rope_scaling",
            "torchtune's builder has rope_type llama3 with the factors 1 and 4 and 8192 "
            "positions, or none",
        )
    return {
        "rope_base": int(rope["rope_theta"]),
        "scale_factor": rope["factor"] if scaling == "llama3" else 1,
    }


def _unsupported(base: Path, config: Mapping[str, Any], name: str, problem: str) -> ConfigError:
    return ConfigError("model.path", base, f"config.json has {name}={config.get(name)}: {problem}")


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
    tokenizer |= _tokenizer_files(tokenizer.get(COMPONENT), base)
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


def _tokenizer_files(builder: str | None, base: Path) -> dict[str, str]:
    """The files of ``base`` that a builder of torchtune's tokenizers takes, by argument."""
    family = (builder or "").removeprefix("torchtune.models.").partition(".")[0]
    match family:
        case "qwen2" | "qwen2_5":
            return {"path": _file(base, "vocab.json"), "merges_file": _file(base, "merges.txt")}
        case "phi4":
            return {
                "vocab_path": _file(base, "vocab.json"),
                "merges_path": _file(base, "merges.txt"),
            }
        case _:
            files = {"path": _file(base, "tokenizer.model", "original/tokenizer.model")}
    # In other vocabularies than Llama 3's, its special tokens have other ids.
    if family == "llama3" and _model_config(base)["vocab_size"] < 128_000:
        files["special_tokens_path"] = _file(base, "tokenizer.json")
    return files


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
