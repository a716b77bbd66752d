"""What tokens cost: the dated table, the user's own over it, and unknown where there is no
price.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from mosweep.core.errors import ConfigError
from mosweep.cost.prices import Usage, facts, quote

M = 1_000_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own(folder: Path, text: str) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes" / "prices.yaml").write_text(text)


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        (Usage("openai", "gpt-4o-mini-2024-07-18", train_tokens=2 * M), 6.0),
        (Usage("openai", "gpt-4o-mini", input_tokens=M, output_tokens=M), 0.75),
        (
            Usage(
                "openai", "ft:gpt-4o-mini-2024-07-18:org:mine:abc", input_tokens=M, output_tokens=M
            ),
            1.5,
        ),
        (Usage("openai", "ft:gpt-4.1-2025-04-14:org::x", output_tokens=M), 12.0),
        (Usage("tinker", "Qwen/Qwen3-8B", train_tokens=M, output_tokens=M), 0.8),
        (Usage("tinker", "tinker/Qwen/Qwen3-8B@tinker://run/weights/1", input_tokens=M), 0.13),
        (Usage("openai", "gpt-4.1-nano"), 0.0),
        (Usage("tinker", "mosweep/tiny", train_tokens=M), None),
        (Usage("nobody", "gpt-4o-mini", train_tokens=M), None),
        (Usage("openai", "gpt-4.1-nano-preview", train_tokens=M), None),
    ],
)
def test_tokens_times_price(usage: Usage, usd: float | None) -> None:
    found = facts(usage)
    assert found == {
        **asdict(usage),
        "usd": pytest.approx(usd) if usd is not None else None,
        "prices_as_of": found["prices_as_of"],
    }
    assert (found["prices_as_of"] is None) == (usd is None)


def test_a_kind_of_token_without_a_price_is_unknown_not_0(folder: Path) -> None:
    own(folder, "openai: {as_of: 2026-11-01, models: {gpt-5: {input: 1}}}")
    assert facts(Usage("openai", "gpt-5", input_tokens=M))["usd"] == 1.0
    assert facts(Usage("openai", "gpt-5", input_tokens=M, output_tokens=1))["usd"] is None


def test_own_prices_win_model_by_model(folder: Path) -> None:
    own(
        folder,
        "openai: {as_of: 2026-11-01, models: {gpt-4o-mini: {training: 7}}}\nmine: {as_of: "
        "'2026', models: {m: {output: 2}}}",
    )
    found = facts(Usage("openai", "gpt-4o-mini-2024-07-18", train_tokens=M))
    assert (found["usd"], found["prices_as_of"]) == (7.0, "2026-11-01")
    assert facts(Usage("openai", "gpt-4.1", train_tokens=M))["usd"] == 25.0
    assert facts(Usage("mine", "m", output_tokens=M))["usd"] == 2.0


def test_every_shipped_block_is_dated_and_says_where_it_is_from() -> None:
    for provider, model in (("openai", "gpt-4.1"), ("tinker", "Qwen/Qwen3-32B")):
        found = quote(provider, model)
        assert found is not None
        assert found.as_of == "2025-10"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "openai: {as_of: 2026, models: {m: {training: free}}}",
            "training=free: expected a number",
        ),
        ("openai: {as_of: 2026, models: {m: {traning: 1}}}", "did you mean training"),
        ("openai: {as_of: 2026, models: {m: {training: -1}}}", "must be ≥ 0"),
        ("openai: {models: {m: {training: 1}}}", "as_of"),
        ("[1]", "expected a section for each provider"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_list_amiss_is_told(folder: Path, text: str, told: str) -> None:
    own(folder, text)
    with pytest.raises(ConfigError, match=r"prices\.yaml") as error:
        facts(Usage("openai", "m"))
    assert told in str(error.value)
