"""All that skyrl's JAX backend uses of peft; the real one needs torch, which is gigabytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraConfig:
    def __init__(
        self,
        base_model_name_or_path: str | None = None,
        r: int = 8,
        lora_alpha: float = 8,
        **others: Any,
    ) -> None:
        self.fields = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model_name_or_path,
            "r": r,
            "lora_alpha": lora_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "inference_mode": True,
            "target_modules": MODULES,
            **others,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        (Path(folder) / "adapter_config.json").write_text(json.dumps(self.fields, indent=2))
