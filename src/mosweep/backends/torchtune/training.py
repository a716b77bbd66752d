"""Fine-tuning with torchtune's stock recipes, in separate processes.

The processes run under any Python interpreter that has torchtune.

A killed run can be resumed in another folder, from the end of its last epoch. torchtune saves
no checkpoint within an epoch, so a run of one epoch starts again from its first step.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mosweep.models.lora as lora
from mosweep.backends.torchtune import child as torchtune_child
from mosweep.backends.torchtune import config as torchtune_config
from mosweep.backends.torchtune.detached import LIFELINE, Detached
from mosweep.backends.torchtune.rows import training_rows
from mosweep.backends.torchtune.run import TorchtuneTrainingRun
from mosweep.backends.torchtune.run_config import complete
from mosweep.core.errors import ConfigError
from mosweep.core.fingerprint import digest_file
from mosweep.datasets.jsonl import JSONLDataset

__all__ = ["Part", "TorchtuneTrainingBackend"]

#: Default environment variables of the training process. It uses one thread, because more threads
#: than free cores make small models many times slower.
CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Part:
    """A part of a longer run: one pass over the data in order, one step per learning rate.

    ``rates`` are the learning rates. The part resumes from the adapter and the optimizer in the
    folder ``start``, which is the ``state`` of the previous part, and writes its own ``state``.
    """

    rates: tuple[float, ...]
    start: str | Path | None = None

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The native config, changed for a part."""
        scheduler = {
            torchtune_config.COMPONENT: "torchtune.training.lr_schedulers."
            "get_cosine_schedule_with_warmup",
            "num_warmup_steps": 0,
        }
        return {
            **config,
            "epochs": 1,
            "max_steps_per_epoch": None,
            "shuffle": False,
            "lr_scheduler": scheduler,
        }


@dataclass(frozen=True)
class TorchtuneTrainingBackend:
    """Runs ``recipe`` with ``config`` (a native config or its path) under ``python``.

    The run uses ``folder`` if no run is in it yet, else a new folder below it. ``environment``
    overrides this process's environment, which overrides ``CHILD_ENVIRONMENT``. ``device``
    overrides the recipe's. ``merged`` also writes the full model. A ``detached`` run continues when
    the process that started it ends. Any other run stops then, or when ``wait`` is cancelled.

    ``processes`` per node, on ``nodes`` of the current Slurm job, share each batch of
    ``batch_size`` samples evenly. They run under torchrun, with torchtune's distributed recipe in
    place of ``lora_finetune_single_device``; other recipes are run as named. They take the same
    steps as one process would, but the adapter starts from different random weights.

    ``previous``: the folder of an earlier attempt at the same run, whose processes have ended. The
    run resumes from a copy of the last usable checkpoint of that attempt and those before it. Their
    checkpoints are removed when this run has succeeded. A ``part`` ignores them and starts from its
    own ``start``.
    """

    config: Mapping[str, Any] | str | Path
    folder: str | Path
    python: str = sys.executable
    recipe: str = "lora_finetune_single_device"
    environment: Mapping[str, str] = field(default_factory=dict)
    device: str | None = None
    merged: bool = False
    detached: bool = True
    processes: int = 1
    nodes: int = 1
    previous: str | Path | None = None
    part: Part | None = None

    async def train(
        self,
        dataset: JSONLDataset | str | Path,
        model: str | Path,
        hyperparameters: Mapping[str, Any] | None = None,
        suffix: str | None = None,
    ) -> TorchtuneTrainingRun:
        """Start fine-tuning the Hugging Face model in the folder ``model`` on ``dataset``.

        ``dataset`` may be the path of a file. ``hyperparameters`` are native settings by dotted
        path: ``{"optimizer.lr": 1e-4}``. Raises ``ConfigError`` for a setting that the config does
        not have, a data set too small for one step, a batch that the processes cannot share
        evenly, and several nodes outside a Slurm job. Raises ``UserError`` for a sample that
        torchtune does not take.
        """
        if self.nodes > 1 and "SLURM_JOB_ID" not in os.environ:
            problem = (
                "training on several nodes needs a Slurm job with these nodes: use "
                "hydra/launcher=slurm"
            )
            raise ConfigError("resources.nodes", self.nodes, problem)
        if not isinstance(dataset, JSONLDataset):
            dataset = await JSONLDataset.load(dataset)
        config = self._native(hyperparameters or {})
        torchtune_config.check(config, len(dataset))
        rows = training_rows(dataset, config)
        shared = torchtune_config.share(config, self.processes, self.nodes, len(dataset))
        run_id = f"{suffix or 'torchtune'}-{secrets.token_hex(4)}"
        folder = Path(self.folder).resolve()
        if (folder / "run").exists():
            folder /= run_id
        run, base = folder / "run", Path(model).resolve()
        # Only the messages, because torchtune's loader fails on rows with different extra keys.
        await rows.save(run / "train.jsonl")
        native = complete(
            shared, base=base, data=run / "train.jsonl", output=run / "work", device=self.device
        )
        identity = json.dumps(
            [config, self.recipe, str(base), digest_file(run / "train.jsonl")],
            sort_keys=True,
            default=str,
        )
        spec = self._spec(native, base, hashlib.sha256(identity.encode()).hexdigest())
        (run / "spec.json").write_text(json.dumps(spec, indent=2) + "\n")
        return self._start(run_id, folder)

    def _native(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """The native config with ``hyperparameters``, changed for ``part``."""
        config = (
            self.config
            if isinstance(self.config, Mapping)
            else torchtune_config.load_recipe(self.config)
        )
        config = torchtune_config.merge(config, hyperparameters)
        return self.part.of(config) if self.part else config

    def _spec(self, native: Mapping[str, Any], base: Path, identity: str) -> dict[str, Any]:
        """The content of ``spec.json``, which ``child`` reads."""
        several = self.processes * self.nodes > 1
        return {
            "recipe": torchtune_config.DISTRIBUTED.get(self.recipe, self.recipe)
            if several
            else self.recipe,
            "config": native,
            "processes": self.processes,
            "nodes": self.nodes,
            "identity": identity,
            "previous": str(Path(self.previous).resolve()) if self.previous else None,
            "base": str(base),
            "merged": self.merged,
            "part": {
                "rates": self.part.rates,
                "start": str(self.part.start) if self.part.start else None,
            }
            if self.part
            else None,
            "lora": lora.__file__,
            "started": time.time(),
            "lifeline": None if self.detached else LIFELINE,
        }

    def _start(self, run_id: str, folder: Path) -> TorchtuneTrainingRun:
        """Start the process that trains according to ``folder/run/spec.json``."""
        run = folder / "run"
        environment = {
            **CHILD_ENVIRONMENT,
            "HF_DATASETS_CACHE": str(run / "work" / "datasets"),
            **os.environ,
            **self.environment,
        }
        command = [self.python, str(Path(torchtune_child.__file__)), str(folder)]
        watched, held = (None, None) if self.detached else os.pipe()
        Detached.start(command, run, folder / "torchtune.log", environment, watched)
        if watched is not None:
            os.close(watched)
        return TorchtuneTrainingRun(run_id, folder, _lifeline=held)
