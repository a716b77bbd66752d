"""mosweep: fine-tuning experiments by the hundred.

The public API. Names load when they are first used, so that ``import mosweep`` costs nothing.

- Extending: ``Backend``, ``RoundBackend``, ``Transform``, ``Evaluation``,
  ``Launcher``, ``Work`` and what they use.
- As a library: data sets, training and evaluation backends, workflows, settings.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Where each public name is; ``__init__.pyi`` tells type checkers the same.
_PLACES = {
    "backends.base": ("Backend", "HostedBase"),
    "backends.training": ("RunStatus", "TrainingBackend", "TrainingRun"),
    "core.checks": ("Check", "check_libraries"),
    "core.errors": (
        "ConfigError",
        "MissingExtra",
        "MosweepError",
        "StageError",
        "StoreError",
        "UserError",
    ),
    "core.facts": (
        "AdapterAccess",
        "DataFacts",
        "DatasetRef",
        "EvalFacts",
        "HostedAccess",
        "ModelFacts",
        "Usage",
        "WeightsAccess",
    ),
    "core.fingerprint": ("unkeyed",),
    "core.schema": ("between",),
    "core.store": ("Store",),
    "core.types": ("Stage", "Trial"),
    "core.work": (
        "CHOSEN",
        "DATA",
        "EVAL",
        "FINETUNE",
        "MODEL",
        "ROUND",
        "ROUND_EVAL",
        "Artifact",
        "Context",
        "Kind",
        "RemoteWork",
        "Resources",
        "Traits",
        "Work",
    ),
    "datasets.jsonl": ("JSONLDataset",),
    "design.settings": ("Setting",),
    "evals.base": ("EvalBackend", "EvalJob", "EvalResults", "EvalStatus"),
    "evals.dummy.backend": ("DummyEvalBackend",),
    "evals.evaluation": ("Evaluation",),
    "evals.inspect.backend": ("InspectEvalBackend",),
    "launchers.base": ("Launcher", "Outcome"),
    "launchers.jobs": ("JobLauncher", "JobState", "Order"),
    "stages.base": ("Transform", "TrialConfig"),
    "stages.data": ("data_folder", "data_stage", "dataset_ref"),
    "stages.loop.backend": ("Round", "RoundBackend"),
    "stages.model": ("ModelSource", "base_model"),
    "training": (
        "DummyTrainingBackend",
        "OpenAITrainingBackend",
        "TinkerTrainingBackend",
        "TorchtuneTrainingBackend",
    ),
    "workflow": (
        "Atom",
        "AtomConstructor",
        "DatasetAtom",
        "EvalAtom",
        "ModelAtom",
        "Step",
        "StepConfig",
        "Workflow",
        "WorkflowConfig",
        "run_workflow",
    ),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [*sorted(_PLACE_OF), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
