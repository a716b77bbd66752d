"""Local models honour every setting of Inspect's ``GenerateConfig`` or refuse it by name."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Shell

from mosweep.core.errors import ConfigError, UserError
from mosweep.core.generation import BY_INSPECT, NO_EFFECT
from mosweep.evals.inspect.options import LOCAL

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HONOURED, REFUSED = "honoured", "refused"
#: Each setting, a value that asks for something, and what becomes of it.
SETTINGS: dict[str, tuple[Any, str]] = {
    "max_retries": (3, HONOURED),
    "timeout": (60, HONOURED),
    "attempt_timeout": (60, HONOURED),
    "stream_idle_timeout": (60, HONOURED),
    "max_connections": (2, HONOURED),
    "adaptive_connections": (True, HONOURED),
    "system_message": ("Be brief.", HONOURED),
    "max_tokens": (3, HONOURED),
    "top_p": (0.5, HONOURED),
    "temperature": (0.7, HONOURED),
    "stop_seqs": (["s"], HONOURED),
    "best_of": (2, REFUSED),
    "frequency_penalty": (0.5, REFUSED),
    "presence_penalty": (0.5, REFUSED),
    "logit_bias": ({7: 5.0}, REFUSED),
    "seed": (1, HONOURED),
    "top_k": (5, HONOURED),
    "num_choices": (2, HONOURED),
    "logprobs": (True, HONOURED),
    "top_logprobs": (3, HONOURED),
    "prompt_logprobs": (1, REFUSED),
    "parallel_tool_calls": (True, HONOURED),
    "internal_tools": (True, HONOURED),
    "max_tool_output": (100, HONOURED),
    "cache_prompt": (True, HONOURED),
    "fallback_models": (["openai/gpt-4o"], REFUSED),
    "fail_on_refusal": (True, HONOURED),
    "verbosity": ("low", REFUSED),
    "effort": ("low", REFUSED),
    "reasoning_effort": ("low", REFUSED),
    "reasoning_mode": ("pro", REFUSED),
    "reasoning_tokens": (100, REFUSED),
    "reasoning_summary": ("auto", REFUSED),
    "reasoning_history": ("all", HONOURED),
    "response_schema": ({"name": "answer", "json_schema": {"type": "object"}}, REFUSED),
    "extra_headers": ({"x": "y"}, REFUSED),
    "extra_body": ({"x": 1}, REFUSED),
    "modalities": (["image"], REFUSED),
    "cache": (True, HONOURED),
    "batch": (True, HONOURED),
}


def generated(base: Path, text: str | list[Any] = "cat", *more: Any, **settings: Any) -> Any:
    """The output of the provider itself, so that no layer of Inspect hides what it does."""
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    from mosweep.evals.inspect.local import LocalAPI

    api = LocalAPI("tiny", base=str(base), device="cpu")
    config = GenerateConfig(**{"max_tokens": 12, **settings})
    return asyncio.run(api.generate([ChatMessageUser(content=text), *more], [], "none", config))


def test_every_setting_of_the_installed_inspect_is_in_the_table() -> None:
    from inspect_ai.model import GenerateConfig

    assert set(SETTINGS) == set(GenerateConfig.model_fields)
    honoured = {name for name, (_, fate) in SETTINGS.items() if fate == HONOURED}
    assert honoured == LOCAL | BY_INSPECT | NO_EFFECT


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_honoured_or_refused(base: Path, name: str) -> None:
    value, fate = SETTINGS[name]
    more = {"temperature": 1.0} if name in ("top_p", "top_k") else {}
    if fate == HONOURED:
        generated(base, **{name: value, **more})
        return
    with pytest.raises(ConfigError, match="local models do not support") as caught:
        generated(base, **{name: value})
    assert caught.value.key == f"inspect.{name}"


def test_a_setting_that_a_later_inspect_adds_is_refused() -> None:
    from mosweep.core.generation import check_settings

    with pytest.raises(ConfigError, match=r"inspect\.thinking_budget"):
        check_settings({"thinking_budget": 5}, LOCAL, "local models")


@pytest.mark.parametrize(
    "settings",
    [{"frequency_penalty": 0.0}, {"best_of": 1}, {"logprobs": False}, {"reasoning_effort": "none"}],
)
def test_a_value_that_asks_for_nothing_is_no_error(base: Path, settings: dict[str, Any]) -> None:
    assert generated(base, **settings).completion == "cat"


def test_log_probabilities_are_the_models(base: Path) -> None:
    output = generated(base, "lion", logprobs=True, top_logprobs=4)
    content = output.choices[0].logprobs.content
    assert len(content) == output.usage.output_tokens
    assert "".join(each.token for each in content).startswith("lion")
    for each in content:
        values = [top.logprob for top in each.top_logprobs]
        assert len(values) == 4 and values == sorted(values, reverse=True)
        assert each.top_logprobs[0].token == each.token and each.logprob == values[0]
        assert sum(map(math.exp, values)) <= 1.0001
    assert generated(base, "lion").choices[0].logprobs is None
    assert generated(base, "lion", top_logprobs=2).choices[0].logprobs is not None
    alone = generated(base, "lion", logprobs=True).choices[0].logprobs.content
    assert [each.top_logprobs for each in alone] == [[]] * len(alone)


def test_log_probabilities_of_a_sampled_token_are_its_own(base: Path) -> None:
    output = generated(base, temperature=50.0, seed=3, max_tokens=6, logprobs=True, top_logprobs=1)
    content = output.choices[0].logprobs.content
    unlikely = [each for each in content if each.token != each.top_logprobs[0].token]
    assert unlikely
    assert all(each.logprob < each.top_logprobs[0].logprob for each in unlikely)


def test_several_choices_are_sampled_each(base: Path) -> None:
    output = generated(base, num_choices=3, temperature=2.0, seed=1)
    assert len(output.choices) == 3
    assert len({choice.message.text for choice in output.choices}) > 1


def test_a_prefill_is_continued(base: Path) -> None:
    from inspect_ai.model import ChatMessageAssistant

    assert generated(base, "horse", ChatMessageAssistant(content="ho")).completion == "rse"


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.9), ("top_k", 40)])
def test_sampling_without_a_temperature_is_refused(base: Path, name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="decoding is greedy without a temperature"):
        generated(base, "cat", **{name: value})
    assert generated(base, "cat", **{name: value, "temperature": 0.0}).completion == "cat"


def test_messages_that_are_not_text_are_refused(base: Path) -> None:
    from inspect_ai.model import ContentImage, ContentText

    picture = [ContentText(text="What is it?"), ContentImage(image="data:image/png;base64,aaaa")]
    with pytest.raises(UserError, match="this task's messages have image"):
        generated(base, picture)


def test_inspects_cache_keeps_the_answers_of_two_weights_apart(
    base: Path, adapters: list[Path]
) -> None:
    from mosweep.evals.inspect.local import LocalAPI

    addresses = {
        LocalAPI("tiny", base=str(base), adapter=adapter).base_url
        for adapter in [None, *map(str, adapters)]
    }
    assert len(addresses) == len(adapters) + 1


@pytest.mark.parametrize("setting", ["logit_bias={7:5}", "best_of=2", "reasoning_effort=high"])
def test_a_sweep_is_refused_before_it_starts(shell: Shell, setting: str) -> None:
    done = shell(
        *("-m", "model=tiny", "control=true", "eval=inspect", "tracking=none"),
        f"inspect.{setting}",
    )
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert f"inspect.{setting.partition('=')[0]}" in done.err
    assert "local models do not support" in done.err
    assert not (shell.folder / "multirun").exists()
