"""The cost of tokens: usage times the dated prices in ``recipes/prices.yaml``.

A price that is not listed is unknown, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mosweep.core.errors import ConfigError
from mosweep.core.facts import Usage
from mosweep.core.paths import own_and_shipped
from mosweep.core.schema import between, build
from mosweep.core.yaml_text import load_yaml

__all__ = [
    "Price",
    "Quote",
    "Usage",
    "cost",
    "facts",
    "model_at",
    "paid_provider",
    "quote",
    "usages",
]

FILE = "prices.yaml"
MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """USD per million tokens. ``None`` is unknown.

    ``tuned`` has ``input`` and ``output`` of a fine-tune, if they differ.
    """

    training: float | None = field(default=None, metadata=between(ge=0))
    input: float | None = field(default=None, metadata=between(ge=0))
    output: float | None = field(default=None, metadata=between(ge=0))
    tuned: Price | None = None

    def usd(self, usage: Usage) -> float | None:
        """The cost of ``usage``, or ``None`` if it has tokens of a kind without a price."""
        kinds = (
            (usage.train_tokens, self.training),
            (usage.input_tokens, self.input),
            (usage.output_tokens, self.output),
        )
        if any(tokens and price is None for tokens, price in kinds):
            return None
        return sum(tokens * price for tokens, price in kinds if price is not None) / MILLION


@dataclass(frozen=True)
class Quote:
    """The price of a model and the date it is from."""

    price: Price
    as_of: str


@dataclass(frozen=True)
class _Block:
    """A provider's prices."""

    as_of: str
    models: Mapping[str, Price]
    source: str = ""


def facts(usage: Usage) -> dict[str, Any]:
    """``usage`` as a stage records it, with its cost (``usd``) and the date of the prices.

    Both are ``None`` if unknown.
    """
    price_quote = quote(usage.provider, usage.model)
    return {
        **asdict(usage),
        "usd": price_quote and price_quote.price.usd(usage),
        "prices_as_of": price_quote and price_quote.as_of,
    }


def usages(facts: Mapping[str, Any]) -> list[Usage]:
    """The usage in the facts of a stage.

    An evaluation whose judge is another model has several.
    """
    recorded = facts.get("usage") or []
    fields = ("provider", "model", "train_tokens", "input_tokens", "output_tokens")
    return [
        Usage(**{name: entry[name] for name in fields if name in entry})
        for entry in ([recorded] if isinstance(recorded, Mapping) else recorded)
    ]


def cost(used: Iterable[Usage]) -> float | None:
    """The cost of ``used`` in USD, at today's prices, or ``None`` if a price is unknown."""
    total = 0.0
    for usage in used:
        price_quote = quote(usage.provider, usage.model)
        usd = price_quote.price.usd(usage) if price_quote else None
        if usd is None:
            return None
        total += usd
    return total


#: Inspect's providers that run models on the user's own machines.
_OWN = frozenset(
    "mosweep hf vllm sglang llama-cpp-python ollama transformer_lens nnterp mockllm none".split()
)


def paid_provider(model: str) -> str | None:
    """The provider that charges for a model's tokens, by Inspect's name of the model.

    It is ``openai`` for ``openai/gpt-4o-mini``, and ``None`` for a model on the user's own machine.
    """
    provider, _, rest = model.partition("/")
    if provider == "openai-api":
        provider = rest.partition("/")[0]
    return None if provider in _OWN or not rest else provider


def model_at(provider: str, model: str) -> str:
    """The provider's own name for the model that Inspect calls ``model``."""
    return model.partition(f"{provider}/")[2] or model


def quote(provider: str, model: str) -> Quote | None:
    """The price of ``model``, or ``None`` if it is not listed.

    The user's own list comes first. ``ConfigError`` for an invalid list.
    """
    base, tuned = _base(model)
    blocks = [
        block
        for folder in own_and_shipped("recipes")
        if (block := _blocks(folder / FILE).get(provider))
    ]
    for name in _names(base):
        for block in blocks:
            if (price := block.models.get(name)) is not None:
                if tuned and price.tuned is not None:
                    price = Price(price.training, price.tuned.input, price.tuned.output)
                return Quote(price, block.as_of)
    return None


def _base(model: str) -> tuple[str, bool]:
    """The base model, and whether ``model`` is a fine-tune of it."""
    if model.startswith("ft:"):
        return model.split(":")[1], True
    base, at, _ = model.removeprefix("tinker/").partition("@")
    return base, bool(at)


def _names(model: str) -> Iterator[str]:
    """The names that ``model`` may be listed under: its own, then without the snapshot's date."""
    yield model
    alias = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
    if alias != model:
        yield alias


@cache
def _blocks(path: Path) -> Mapping[str, _Block]:
    """The prices in ``path`` by provider. Empty if there is no such file."""
    if not path.exists():
        return {}
    import yaml

    try:
        data = load_yaml(path.read_bytes()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(str(path), FILE, f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, Mapping):
        raise ConfigError(
            str(path),
            data,
            "expected a section for each provider, such as openai, with as_of and models",
        )
    blocks = {}
    for provider, block in data.items():
        # YAML turns ``as_of`` into a date.
        section = (
            {**block, "as_of": str(block["as_of"])}
            if isinstance(block, Mapping) and "as_of" in block
            else block
        )
        blocks[str(provider)] = build(_Block, section, f"{path}: {provider}")
    return blocks
