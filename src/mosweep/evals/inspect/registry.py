"""What Inspect finds under the entry point group ``inspect_ai``: our model provider. Imports torch
only when a model is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspect_ai.model import modelapi

if TYPE_CHECKING:
    from inspect_ai.model import ModelAPI

__all__ = ["mosweep"]


@modelapi(name="mosweep")
def mosweep() -> type[ModelAPI]:
    """Local checkpoints and LoRA adapters: ``get_model("mosweep/NAME", base=FOLDER,
    adapter=FOLDER)``.
    """
    from mosweep.evals.inspect.local import LocalAPI

    return LocalAPI
