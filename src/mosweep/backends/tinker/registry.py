"""Registers the model provider ``tinker`` with Inspect (entry point group ``inspect_ai``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspect_ai.model import modelapi

if TYPE_CHECKING:
    from inspect_ai.model import ModelAPI

__all__ = ["tinker"]


@modelapi(name="tinker")
def tinker() -> type[ModelAPI]:
    """Models on Tinker: ``get_model("tinker/MODEL@tinker://…")``."""
    from mosweep.backends.tinker.provider import TinkerAPI

    return TinkerAPI
