"""Settings of generation, by the names of Inspect's ``GenerateConfig``, and chats of text.

mosweep has model providers of its own. Each lists the settings that it honours. A setting that
neither the provider nor Inspect honours is refused, also one that a later Inspect adds: a score
must never come from other settings than the task asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mosweep.core.errors import ConfigError, UserError

__all__ = ["BY_INSPECT", "NO_EFFECT", "chat_of_text", "check_sampling", "check_settings"]

#: Settings that Inspect itself honours, for every provider.
BY_INSPECT = frozenset(
    "max_retries timeout attempt_timeout max_connections adaptive_connections system_message "
    "max_tool_output cache fail_on_refusal reasoning_history".split()
)
#: Settings that cannot change a completion where nothing is streamed, billed or given tools.
NO_EFFECT = frozenset(
    "stream_idle_timeout cache_prompt batch parallel_tool_calls internal_tools".split()
)

#: Values that ask for nothing, and those of single settings.
_NEUTRAL: tuple[object, ...] = (None, False, 0, "none", [], {})
_NEUTRAL_OF: Mapping[str, object] = {"best_of": 1}


def check_settings(given: Mapping[str, Any], honoured: Iterable[str], provider: str) -> None:
    """Refuse each of the ``given`` settings that ``provider`` would leave out."""
    known = {*honoured, *BY_INSPECT, *NO_EFFECT}
    for name, value in given.items():
        if name in known or value in _NEUTRAL or value == _NEUTRAL_OF.get(name, ...):
            continue
        valid = ", ".join(sorted(honoured))
        raise ConfigError(
            f"inspect.{name}", value, f"{provider} do not support this setting; valid: {valid}"
        )


def check_sampling(temperature: float | None, top_p: float | None, top_k: int | None) -> None:
    """Refuse ``top_p`` and ``top_k`` where no temperature is given, as decoding is then greedy."""
    if temperature is not None:
        return
    for name, value, same in (("top_p", top_p, (None, 1)), ("top_k", top_k, (None, 0, 1, -1))):
        if value not in same:
            raise ConfigError(
                f"inspect.{name}",
                value,
                "has no effect, because decoding is greedy without a temperature; "
                "set inspect.temperature, too",
            )


def chat_of_text(messages: Iterable[Any], provider: str) -> list[dict[str, str]]:
    """Inspect's messages as role and content. Refuses what is not text."""
    chat = []
    for message in messages:
        parts = [] if isinstance(message.content, str) else message.content
        other = {part.type for part in parts} - {"text", "reasoning"}
        if message.role == "tool" or (message.role == "assistant" and message.tool_calls):
            other.add("tool calls")
        if other:
            raise UserError(
                f"{provider} read text, but this task's messages have {', '.join(sorted(other))}"
            )
        chat.append({"role": message.role, "content": message.text})
    return chat
