"""Inspect's native options (``inspect.<path>``), checked without importing Inspect.

The tables list the options of ``inspect_ai.eval_async`` and ``GenerateConfig`` in the supported
version. A test compares them with the installed Inspect. Options that decide where and how mosweep
runs an evaluation are refused with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mosweep.core.errors import ConfigError, choices

__all__ = ["EVAL", "GENERATE", "LOCAL", "OPEN", "OWNED", "InspectOptions", "inspect_options"]

PREFIX = "inspect"

#: Options of the evaluation, and the types of their values.
EVAL: dict[str, str] = {
    "limit": "int|list",
    "sample_id": "int|text|list",
    "sample_shuffle": "bool|int",
    "epochs": "int",
    "fail_on_error": "bool|number",
    "continue_on_fail": "bool",
    "retry_on_error": "int",
    "score_on_error": "bool",
    "message_limit": "int",
    "token_limit": "int|text",
    "turn_limit": "int",
    "time_limit": "int",
    "working_limit": "int",
    "cost_limit": "number",
    "model_cost_config": "text|mapping",
    "max_samples": "int",
    "max_dataset_memory": "int",
    "max_subprocesses": "int",
    "max_sandboxes": "int",
    "sandbox": "text|list",
    "sandbox_cleanup": "bool",
    "sandbox_prebuilt": "bool",
    "model_base_url": "text",
    "tags": "list",
    "log_images": "bool",
    "log_model_api": "bool",
    "log_refusals": "bool",
}

#: Options of generation, and the types of their values.
GENERATE: dict[str, str] = {
    "max_retries": "int",
    "timeout": "int",
    "attempt_timeout": "int",
    "stream_idle_timeout": "int",
    "max_connections": "int",
    "adaptive_connections": "bool|int",
    "system_message": "text",
    "max_tokens": "int",
    "top_p": "number",
    "temperature": "number",
    "stop_seqs": "list",
    "best_of": "int",
    "frequency_penalty": "number",
    "presence_penalty": "number",
    "logit_bias": "mapping",
    "seed": "int",
    "top_k": "int",
    "num_choices": "int",
    "logprobs": "bool",
    "top_logprobs": "int",
    "prompt_logprobs": "int",
    "parallel_tool_calls": "bool",
    "internal_tools": "bool",
    "max_tool_output": "int",
    "cache_prompt": "bool|text",
    "fallback_models": "list",
    "fail_on_refusal": "bool",
    "verbosity": "text",
    "effort": "text",
    "reasoning_effort": "text",
    "reasoning_mode": "text",
    "reasoning_tokens": "int",
    "reasoning_summary": "text",
    "reasoning_history": "text",
    "response_schema": "mapping",
    "extra_headers": "mapping",
    "extra_body": "mapping",
    "modalities": "list",
    "batch": "bool|int",
}

#: Options of generation that local models honour, besides those that Inspect itself honours.
LOCAL = frozenset(
    "max_tokens temperature top_p top_k seed stop_seqs num_choices logprobs top_logprobs".split()
)

#: Sections whose keys are arguments of the task or the model.
OPEN = ("task_args", "model_args")

_RUN = "mosweep runs the evaluation"
_LOGS = "mosweep keeps the complete log with the evaluation's results"
_WHAT = "the sweep varies it (task=…, model=…)"

#: Inspect's other options, and why they cannot be set.
OWNED: dict[str, str] = {
    "tasks": _WHAT,
    "model": _WHAT,
    "model_roles": "not supported; name the models in the task",
    "solver": "not supported; choose the solver in the task",
    "scanner": "not supported; scan the logs afterwards",
    "checkpoint": "not supported; an evaluation is a cached stage",
    "cache": "Inspect's cache identifies a model by its name and would mix up checkpoints; mosweep "
    "caches evaluations itself",
    "approval": "evaluations run unattended",
    "review": "evaluations run unattended",
    "notification": "evaluations run unattended",
    "metadata": _RUN,
    "acp_server": _RUN,
    "ctl_server": _RUN,
    "debug_errors": _RUN,
    "max_tasks": "one task is evaluated at a time",
    "eval_set_id": _RUN,
    "eval_set_tasks": _RUN,
    "scan_id": _RUN,
    "sentinel": _RUN,
    "task_retry_attempts": "a failed stage is retried by running the sweep again",
    "run_samples": "an evaluation without samples has no score",
    "score": "an evaluation without scores has no result",
    "score_display": _RUN,
    **dict.fromkeys(
        (
            "log_level",
            "log_level_transcript",
            "log_dir",
            "log_format",
            "log_samples",
            "log_realtime",
            "log_buffer",
            "log_shared",
        ),
        _LOGS,
    ),
    "log_header_only": _LOGS,
}


@dataclass(frozen=True)
class InspectOptions:
    """Checked options: arguments of ``eval_async``, ``GenerateConfig``, the task and the model."""

    eval: Mapping[str, Any] = field(default_factory=dict)
    generate: Mapping[str, Any] = field(default_factory=dict)
    task_args: Mapping[str, Any] = field(default_factory=dict)
    model_args: Mapping[str, Any] = field(default_factory=dict)


def inspect_options(options: Mapping[str, Any]) -> InspectOptions:
    """Check native options and sort them by recipient.

    Keys may be nested (``{"task_args": {…}}``) or dotted (``{"task_args.n": 1}``). Raises
    ``ConfigError`` with the key ``inspect.<path>`` for an option that Inspect does not have, for
    one that mosweep decides, and for a value of the wrong type. Inspect's default applies to an
    option that is ``None``.
    """
    sections: dict[str, dict[str, Any]] = {
        "eval": {},
        "generate": {},
        "task_args": {},
        "model_args": {},
    }
    for path, value in options.items():
        head, _, rest = str(path).partition(".")
        where = f"{PREFIX}.{path}"
        if head in OWNED:
            raise ConfigError(where, value, f"cannot be set: {OWNED[head]}")
        if head in OPEN:
            if not rest and not isinstance(value, Mapping):
                raise ConfigError(where, value, "expected a mapping of arguments")
            sections[head].update({rest: value} if rest else value)
            continue
        kinds = EVAL.get(head) or GENERATE.get(head)
        if kinds is None or (rest and "mapping" not in kinds):
            raise ConfigError(
                where,
                value,
                "Inspect has no such option; "
                f"{choices(str(path), [*EVAL, *GENERATE, *OPEN], limit=80)}",
            )
        section = sections["eval" if head in EVAL else "generate"]
        if rest:
            section[head] = {**section.get(head, {}), rest: value}
        elif value is not None:
            if not any(_is(value, kind) for kind in kinds.split("|")):
                raise ConfigError(
                    where,
                    value,
                    f"expected {' or '.join(_WORDS[kind] for kind in kinds.split('|'))}",
                )
            section[head] = tuple(value) if head == "limit" and isinstance(value, list) else value
    return InspectOptions(**sections)


_WORDS = {
    "int": "a whole number",
    "number": "a number",
    "bool": "true or false",
    "text": "text",
    "list": "a list",
    "mapping": "a mapping",
}


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "text":
            return isinstance(value, str)
        case "list":
            return isinstance(value, list | tuple)
        case _:
            return isinstance(value, Mapping)
