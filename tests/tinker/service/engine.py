"""skyrl's engine with the Tinker service's semantics where the stock JAX backend departs from them,
each found by running it.

1. The loss is the weighted sum over tokens and sequences. Stock divides by each sequence's sum of
   weights and by the number of sequences.
2. ``grad_clip_norm`` clips the gradient's global norm; stock ignores it.
3. Checkpoints for sampling have adapter slots of their own. Stock loads them over the adapter that
   is being trained.
4. They can be sampled when their training client is gone, as after a restart of the server.
5. A new model starts without gradients. Stock leaves it those that the last model in its adapter
   slot had not used.
6. Llama's rotary angles are scaled as the model's config says; stock knows no scaling.
"""

from __future__ import annotations

import collections
import importlib
import json
import os
import sys
import tarfile
from typing import Any

from patching import patched

#: Adapter slots that hold checkpoints for sampling, the last of ``max_lora_adapters``; the least
#: recently used one is replaced.
SAMPLER_SLOTS = 4

SCALED_ROPE = """
def apply_rope(inputs, positions, head_dim, theta, scaling):
    if scaling.get("rope_type", "default") == "default":
        return plain_rope(inputs, positions, head_dim, theta)
    assert scaling["rope_type"] == "llama3", scaling
    fast = theta ** -(2 * jnp.arange(0, head_dim // 2, dtype=jnp.float32) / head_dim)
    turns = scaling["original_max_position_embeddings"] * fast / (2 * jnp.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = jnp.clip((turns - low) / (high - low), 0, 1)
    angles = positions[..., None, None] * (kept * fast + (1 - kept) * fast / scaling["factor"])
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    a, b = jnp.split(inputs, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(inputs.dtype)


class Llama3Attention("""

CLIPPED_ADAM = """
def clipped_adamw(learning_rate, b1, b2, eps, weight_decay, clip):
    return optax.chain(optax.clip_by_global_norm(clip), \
optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay))


class JaxBackendImpl("""


def load_sampler_weights(self: Any, batch: Any) -> list[int]:
    """Adapter indices for a batch of samples; 0 is the base model."""
    slots = self.__dict__.setdefault("sampler_slots", collections.OrderedDict())
    last = self.config.max_lora_adapters
    wanted = dict.fromkeys(
        zip(batch.all_model_ids, batch.all_checkpoint_ids, batch.all_checkpoint_paths, strict=True)
    )
    needed = [(model, checkpoint, path) for model, checkpoint, path in wanted if model]
    if len(needed) > SAMPLER_SLOTS:
        raise ValueError(
            f"one batch asks for {len(needed)} checkpoints; there are slots for {SAMPLER_SLOTS}"
        )
    for model, checkpoint, path in needed:
        if (model, checkpoint) in slots:
            slots.move_to_end((model, checkpoint))
            continue
        free = set(range(last - SAMPLER_SLOTS, last)) - set(slots.values())
        if not free:
            kept = {(model, checkpoint) for model, checkpoint, _ in needed}
            free = {slots.pop(next(key for key in slots if key not in kept))}
        index = min(free)
        with tarfile.open(path) as archive:
            member = next(
                item for item in archive.getmembers() if item.name.endswith("adapter_config.json")
            )
            found = archive.extractfile(member)
            assert found is not None
            config = json.load(found)
        lora = backend.types.LoraConfig(rank=config["r"], alpha=config["lora_alpha"], seed=0)
        with backend.jax.set_mesh(self.mesh):
            backend.init_lora_adapter(self.model, index, lora)
            backend.load_lora_checkpoint(self.model, lora, index, backend.AnyPath(path))
        slots[(model, checkpoint)] = index
    return [
        slots[(model, checkpoint)] if model else 0
        for model, checkpoint in zip(batch.all_model_ids, batch.all_checkpoint_ids, strict=True)
    ]


patched(
    "skyrl.tinker.types",
    ("    weight_decay: float\n", "    weight_decay: float\n    grad_clip_norm: float = 0.0\n"),
)
patched(
    "skyrl.tx.models.llama3",
    ("import apply_rope", "import apply_rope as plain_rope"),
    (
        'self.config.rope_parameters["rope_theta"])',
        'self.config.rope_parameters["rope_theta"], self.config.rope_parameters)',
    ),
    ("\nclass Llama3Attention(", SCALED_ROPE),
)
backend = patched(
    "skyrl.backends.jax",
    (
        "per_token_losses.sum(axis=-1) / jnp.maximum(loss_mask.sum(axis=-1), 1e-9)",
        "per_token_losses.sum(axis=-1)",
    ),
    ("safe_count = jnp.maximum(count, jnp.int32(1))", "safe_count = jnp.int32(1) + 0 * count"),
    (
        "set(range(1, self.config.max_lora_adapters)) - used",
        f"set(range(1, self.config.max_lora_adapters - {SAMPLER_SLOTS})) - used",
    ),
    (
        "        init_lora_adapter(self.model, adapter_index, lora_config)\n        "
        'logger.info(f"Created model',
        "        init_lora_adapter(self.model, adapter_index, lora_config)\n"
        "        self.accumulated_grads = "
        "self.accumulated_grads.reset_adapter(jnp.int32(adapter_index))\n"
        '        logger.info(f"Created model',
    ),
    ("\nclass JaxBackendImpl(", CLIPPED_ADAM),
    (
        "optax.inject_hyperparams(optax.adamw)(learning_rate=0.0)",
        "optax.inject_hyperparams(clipped_adamw)(learning_rate=0.0, b1=0.9, b2=0.999, eps=1e-8, "
        "weight_decay=0.0, clip=jnp.inf)",
    ),
    (
        'hp["weight_decay"][...] = request_data.adam_params.weight_decay',
        'hp["weight_decay"][...] = request_data.adam_params.weight_decay\n'
        '        hp["clip"][...] = request_data.adam_params.grad_clip_norm or jnp.inf',
    ),
)
backend.JaxBackendImpl.load_sampler_weights = load_sampler_weights
engine = patched(
    "skyrl.tinker.engine",
    (
        "if model_id and not self.backend.has_model(model_id):\n                error",
        "if model_id and not self.backend.has_model(model_id) and not isinstance(request_data, "
        "types.SampleInput):\n                error",
    ),
)

if __name__ == "__main__":
    if os.environ.get("MOSWEEP_TINKER_NICE"):
        os.nice(int(os.environ["MOSWEEP_TINKER_NICE"]))
    sys.argv[0] = "skyrl.tinker.engine"
    importlib.import_module("skyrl.tinker.engine").main()
