"""Planning imports the primitives; it must not pay for the libraries that do the work."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "mosweep.datasets",
    "mosweep.datasets.organisms",
    "mosweep.backends.dummy.training",
    "mosweep.backends.torchtune.training",
    "mosweep.backends.torchtune.config",
    "mosweep.backends.torchtune.run",
    "mosweep.backends.torchtune.run_config",
    "mosweep.evals.dummy.backend",
    "mosweep.evals.inspect.backend",
    "mosweep.evals.inspect.options",
    "mosweep.evals.inspect.generation",
    "mosweep.evals.splits",
    "mosweep.evals.inspect.signature",
    "mosweep.models.lora",
)
HEAVY = (
    "torch",
    "transformers",
    "inspect_ai",
    "pandas",
    "numpy",
    "torchtune",
    "safetensors",
    "pydantic",
)


def test_no_module_imports_a_heavy_library() -> None:
    code = (
        f"import sys, importlib\nfor m in {MODULES!r}: importlib.import_module(m)\nprint([m for "
        f"m in {HEAVY!r} if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
