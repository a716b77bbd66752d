"""mosweep: fine-tuning experiments by the hundred, and results to believe."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
