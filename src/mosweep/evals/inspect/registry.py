"""Registers the model provider ``mosweep`` with Inspect (entry point group ``inspect_ai``).

It must not import torch before a model is created.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspect_ai.model import modelapi

if TYPE_CHECKING:
    from inspect_ai.model import ModelAPI

__all__ = ["mosweep"]


@modelapi(name="mosweep")
def mosweep() -> type[ModelAPI]:
    """Local models: ``get_model("mosweep/NAME", base=FOLDER, adapter=FOLDER)``."""
    from mosweep.evals.inspect.local import LocalAPI

    return LocalAPI
