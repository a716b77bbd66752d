"""What tokens cost: usage times the dated table ``recipes/prices.yaml``. A price that is not listed
is unknown, never 0.
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
    """USD per million tokens; ``None``: unknown. ``tuned`` holds ``input`` and ``output`` of a
    fine-tune, where they differ.
    """

    training: float | None = field(default=None, metadata=between(ge=0))
    input: float | None = field(default=None, metadata=between(ge=0))
    output: float | None = field(default=None, metadata=between(ge=0))
    tuned: Price | None = None

    def usd(self, usage: Usage) -> float | None:
        """What ``usage`` costs, or ``None`` where it has tokens of a kind whose price is
        unknown.
        """
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
    """``usage`` as a stage records it, with what it cost (``usd``) and the date of the prices, both
    ``None`` if unknown.
    """
    found = quote(usage.provider, usage.model)
    return {
        **asdict(usage),
        "usd": found and found.price.usd(usage),
        "prices_as_of": found and found.as_of,
    }


def usages(facts: Mapping[str, Any]) -> list[Usage]:
    """What the facts of a stage say of its usage: one, several (an evaluation whose judge is
    another model), or none.
    """
    found = facts.get("usage") or []
    kinds = ("provider", "model", "train_tokens", "input_tokens", "output_tokens")
    return [
        Usage(**{name: one[name] for name in kinds if name in one})
        for one in ([found] if isinstance(found, Mapping) else found)
    ]


def cost(used: Iterable[Usage]) -> float | None:
    """USD of all that was used, by today's list, or ``None`` where some price is unknown. Nothing
    costs nothing.
    """
    total = 0.0
    for usage in used:
        found = quote(usage.provider, usage.model)
        usd = found.price.usd(usage) if found else None
        if usd is None:
            return None
        total += usd
    return total


#: Inspect's providers that run models on one's own machines.
_OWN = frozenset(
    "mosweep hf vllm sglang llama-cpp-python ollama transformer_lens nnterp mockllm none".split()
)


def paid_provider(model: str) -> str | None:
    """Who is paid for the tokens of the model that Inspect calls so (``openai/gpt-4o-mini``);
    ``None`` for one's own machine.
    """
    provider, _, rest = model.partition("/")
    if provider == "openai-api":
        provider = rest.partition("/")[0]
    return None if provider in _OWN or not rest else provider


def model_at(provider: str, model: str) -> str:
    """The provider's own name of the model that Inspect calls ``model``."""
    return model.partition(f"{provider}/")[2] or model


def quote(provider: str, model: str) -> Quote | None:
    """The price of ``model``, or ``None`` if it is not listed; the user's own list comes first.
    ``ConfigError`` for a list amiss.
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
    """What ``model`` may be listed as: itself, then the alias of a dated snapshot."""
    yield model
    alias = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
    if alias != model:
        yield alias


@cache
def _blocks(path: Path) -> Mapping[str, _Block]:
    """The table in ``path`` by provider; empty if there is no such file."""
    if not path.exists():
        return {}
    import yaml

    try:
        data = (
            yaml.load(
                path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            )
            or {}
        )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), FILE, f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, Mapping):
        raise ConfigError(
            str(path),
            data,
            "expected a section for each provider, such as openai, with as_of and models",
        )
    blocks = {}
    for provider, block in data.items():
        # YAML reads dates
        given = (
            {**block, "as_of": str(block["as_of"])}
            if isinstance(block, Mapping) and "as_of" in block
            else block
        )
        blocks[str(provider)] = build(_Block, given, f"{path}: {provider}")
    return blocks
