"""skyrl imports torch for images only, and this server has none."""

from __future__ import annotations

from typing import Any


class Tensor: ...


class dtype: ...  # noqa: N801 - as torch calls it


def __getattr__(name: str) -> Any:
    raise AttributeError(f"this server reads text only, and has no torch.{name}")
