"""Planning imports the primitives; it must not pay for the libraries that do the work."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "mosweep.datasets",
    "mosweep.datasets.organisms",
    "mosweep.training.dummy",
    "mosweep.training.torchtune",
    "mosweep.training.torchtune_config",
    "mosweep.evals.dummy",
    "mosweep.evals.inspect",
    "mosweep.evals.inspect_options",
    "mosweep.evals.generation",
    "mosweep.evals.splits",
    "mosweep.evals.task_signature",
    "mosweep.models.lora",
)
HEAVY = ("torch", "transformers", "inspect_ai", "pandas", "numpy", "torchtune", "safetensors", "pydantic")


def test_no_module_imports_a_heavy_library() -> None:
    code = f"import sys, importlib\nfor m in {MODULES!r}: importlib.import_module(m)\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
