"""Tiny base models, pre-trained from scratch in a few CPU seconds to repeat the user's word.

They have Llama 3.2's architecture. Such a model answers ``hello`` with ``hello`` and ``HELLO`` with
``HELLO``, for words of 3 to 7 letters. Fine-tuning it to capitalise words takes seconds. So sweeps,
examples and tests train real models without a download or an accelerator.

Pre-training is fast for three reasons. The forward pass computes the last layer only at the
positions of the answer. Muon needs a fraction of Adam's steps, because it moves the small initial
attention weights at full speed. The result is an average of the weights of the last steps.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosweep.models.muon import Muon
from mosweep.models.tokenizer import BOS, EOS, EOT, PAD, VOCABULARY, prompt_frame, write_tokenizer

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["TinyArchitecture", "generate"]

#: Letters of the shortest word.
MIN_LETTERS = 3
#: Letters of the longest word.
MAX_LETTERS = 7
#: Words in a training step.
BATCH = 16
#: Steps of the decay to a fifth of the peak learning rate.
DECAY_STEPS = 300
#: The number of steps after which pre-training fails.
MAX_STEPS = 900
#: Consecutive checks that must pass before a final check on four times as many words.
CHECKS = 2
#: Steps between checks.
CHECK_EVERY = 25
#: Held-out words in a check.
CHECK_WORDS = 256
#: The accuracy that a check requires.
REQUIRED_ACCURACY = 0.995
#: A word is held out if its bytes sum to a multiple of this: a quarter of all words.
HELD_OUT = 4
#: Weight of the newest step in the average of the weights.
AVERAGE_WEIGHT = 0.05
#: Epsilon of the layer norms.
EPSILON = 1e-5
#: Target of positions that the loss ignores.
IGNORE = -100
ROPE_THETA = 500000.0
ROPE_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class TinyArchitecture:
    """Sizes of a tiny model. The defaults are those of ``tiny``.

    Raises ``ValueError`` for sizes that do not fit together.
    """

    dim: int = 64
    """Width of the model."""
    layers: int = 2
    """Transformer layers, at least two."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int = 2
    """Heads for keys and values."""
    ffn: int = 128
    """Width of the feed-forward layers."""

    def __post_init__(self) -> None:
        if min(self.dim, self.heads, self.kv_heads, self.ffn) < 1 or self.layers < 2:
            raise ValueError(f"{self}: sizes must be positive, and layers at least 2")
        if self.dim % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"{self}: dim must be a multiple of 2 × heads, and heads a multiple of kv_heads"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.heads


def generate(
    out: Path, architecture: TinyArchitecture, *, seed: int, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Pre-train a tiny base model on one thread and write it to ``out`` in Hugging Face's layout.

    The same seed gives the same model on the same machine. Returns measurements: ``parameters``,
    ``steps``, ``copy_accuracy`` (the fraction of held-out words that are repeated exactly) and
    ``cpu_s`` (CPU seconds without imports). Raises ``RuntimeError`` if pre-training does not
    converge, and writes no files then.
    """
    import torch
    from safetensors.torch import save_file

    start = time.process_time()
    threads = torch.get_num_threads()
    # One thread, because another order of summation gives another model. More threads are slower.
    torch.set_num_threads(1)
    try:
        weights, facts = _pretrain(architecture, seed, log)
    finally:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    ends = {"bos_token_id": BOS, "eos_token_id": [EOS, EOT], "pad_token_id": PAD}
    (out / "config.json").write_text(json.dumps({**_config(architecture), **ends}, indent=1) + "\n")
    (out / "generation_config.json").write_text(
        json.dumps({**ends, "do_sample": False}, indent=1) + "\n"
    )
    write_tokenizer(out)
    return {**facts, "cpu_s": round(time.process_time() - start, 2)}


def _config(size: TinyArchitecture) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": size.dim,
        "intermediate_size": size.ffn,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 131072,
        "rms_norm_eps": EPSILON,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        # Versions 4 and 5 of transformers read these two keys. Version 4 ignores rope_parameters.
        "rope_theta": ROPE_THETA,
        "rope_scaling": ROPE_SCALING,
    }


def _pretrain(
    size: TinyArchitecture, seed: int, log: Callable[[str], None]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import torch
    from torch.nn.functional import cross_entropy

    accuracy = 0.0
    random, held_out = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    weights = _initial_weights(size, random)
    muon = Muon(
        [weight for name, weight in weights.items() if weight.ndim == 2 and "embed" not in name]
    )
    others = [weight for name, weight in weights.items() if weight.ndim == 1 or "embed" in name]
    adam = torch.optim.Adam(others, lr=0.0, betas=(0.9, 0.98), fused=True)
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    passed = 0
    for step in range(1, MAX_STEPS + 1):
        tokens, positions, targets = _words(BATCH, random)
        logits = _logits(size, _with_capitals(weights), tokens, positions)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        if not math.isfinite(loss.item()):
            raise RuntimeError(
                f"pre-training of {size} with seed {seed} diverged: loss {loss.item()} at step "
                f"{step}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        rate = min(1.0, step / 20) * max(0.2, 1 - 0.8 * step / DECAY_STEPS)
        adam.param_groups[0]["lr"] = rate * 0.64 / size.dim
        adam.step()
        muon.step(rate * 0.02)
        for weight in weights.values():
            weight.grad = None
        # The average is more accurate than the last step, because the batch is small.
        with torch.no_grad():
            for name, mean in average.items():
                mean.lerp_(weights[name], AVERAGE_WEIGHT)
        if step % CHECK_EVERY == 0:
            accuracy = _accuracy(size, _with_capitals(average), CHECK_WORDS, held_out)
            log(
                f"step {step}: loss {loss.item():.3f}, {accuracy:.1%} of {CHECK_WORDS} held-out "
                "words repeated"
            )
            passed = passed + 1 if accuracy >= REQUIRED_ACCURACY else 0
            if passed < CHECKS:
                continue
            accuracy = _accuracy(size, _with_capitals(average), 4 * CHECK_WORDS, held_out)
            if accuracy >= REQUIRED_ACCURACY:
                parameters = sum(weight.numel() for weight in weights.values())
                return _with_capitals(average), {
                    "parameters": parameters,
                    "steps": step,
                    "copy_accuracy": accuracy,
                }
    raise RuntimeError(
        f"pre-training of {size} with seed {seed} did not converge: after {MAX_STEPS} steps it "
        f"repeats {accuracy:.1%} of held-out words, and {REQUIRED_ACCURACY:.1%} are required; try "
        "another seed"
    )


def _initial_weights(size: TinyArchitecture, random: Generator) -> dict[str, Tensor]:
    import torch

    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, size.dim)}
    kv = size.kv_heads * size.head_dim
    for layer in range(size.layers):
        for name, shape in {
            "input_layernorm": (size.dim,),
            "self_attn.q_proj": (size.dim, size.dim),
            "self_attn.k_proj": (kv, size.dim),
            "self_attn.v_proj": (kv, size.dim),
            "self_attn.o_proj": (size.dim, size.dim),
            "post_attention_layernorm": (size.dim,),
            "mlp.gate_proj": (size.ffn, size.dim),
            "mlp.up_proj": (size.ffn, size.dim),
            "mlp.down_proj": (size.dim, size.ffn),
        }.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    shapes["model.norm.weight"] = (size.dim,)
    return {
        name: (
            torch.ones(shape) if len(shape) == 1 else 0.02 * torch.randn(shape, generator=random)
        ).requires_grad_()
        for name, shape in shapes.items()
    }


def _with_capitals(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` where a capital's embedding is its small letter's embedding plus one vector.

    That vector is stored as the embedding of A. A large model learns that a capital is the same
    letter in another case. A tiny model does not: fine-tuning it to capitalise would have to learn
    26 unrelated pairs, which fails for most seeds.
    """
    import torch

    name = "model.embed_tokens.weight"
    raw = weights[name]
    table = torch.cat(
        [raw[: ord("A")], raw[ord("a") : ord("z") + 1] + raw[ord("A")], raw[ord("Z") + 1 :]]
    )
    return {**weights, name: table}


def _words(
    count: int, random: Generator, *, held_out: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Chats that repeat random words.

    Returns tokens ``(count, T)``, the positions ``(count, MAX_LETTERS + 1)`` that predict a token
    of the answer, and those tokens, with ``IGNORE`` after the end of the answer. The tokens after
    a shorter chat are arbitrary.
    """
    import torch

    prefix, middle = (torch.tensor(ids) for ids in prompt_frame())
    pool = 16 * count  # large enough for ``count`` words of either kind
    alphabet = torch.where(torch.rand(pool, 1, generator=random) < 0.5, ord("a"), ord("A"))
    letters = alphabet + torch.randint(26, (pool, MAX_LETTERS), generator=random)
    lengths = torch.randint(MIN_LETTERS, MAX_LETTERS + 1, (pool, 1), generator=random)
    sums = torch.where(torch.arange(MAX_LETTERS) < lengths, letters, 0).sum(1)
    chosen = ((sums % HELD_OUT == 0) == held_out).nonzero()[:count, 0]
    letters, lengths = letters[chosen], lengths[chosen]

    def letter(index: Tensor) -> Tensor:
        return letters.gather(1, index.clamp(0, MAX_LETTERS - 1))

    column = torch.arange(2 * MAX_LETTERS + len(middle)) - lengths  # 0 at the end of the word
    frame = middle[column.clamp(0, len(middle) - 1)]
    rest = torch.where(column < len(middle), frame, letter(column - len(middle)))
    chat = torch.where(column < 0, letter(column + lengths), rest)
    answer = torch.arange(MAX_LETTERS + 1).expand(count, -1)
    targets = torch.where(
        answer < lengths, letter(answer), torch.where(answer == lengths, EOT, IGNORE)
    )
    tokens = torch.cat([prefix.expand(count, -1), chat], 1)
    positions = len(prefix) + lengths + len(middle) - 1 + answer
    return tokens, positions.clamp(max=tokens.shape[1] - 1), targets


def _accuracy(
    size: TinyArchitecture, weights: dict[str, Tensor], words: int, random: Generator
) -> float:
    """The fraction of held-out words that are repeated exactly.

    Greedy decoding repeats a word exactly if every next token is predicted correctly.
    """
    import torch

    tokens, positions, targets = _words(words, random, held_out=True)
    with torch.no_grad():
        best = _logits(size, weights, tokens, positions).argmax(-1)
    return float(((best == targets) | (targets == IGNORE)).all(1).float().mean())


def _logits(
    size: TinyArchitecture, weights: dict[str, Tensor], tokens: Tensor, positions: Tensor
) -> Tensor:
    """Llama's logits for ``tokens (B, T)`` at ``positions (B, t)`` only: ``(B, t, VOCABULARY)``."""
    import torch
    from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu

    def norm(x: Tensor, name: str) -> Tensor:
        return rms_norm(x, (size.dim,), weights[f"{name}.weight"], EPSILON)

    def heads(x: Tensor, name: str) -> Tensor:
        return (
            linear(x, weights[f"{name}.weight"])
            .view(*x.shape[:2], -1, size.head_dim)
            .transpose(1, 2)
        )

    def rotated(x: Tensor, angle: Tensor) -> Tensor:
        half = size.head_dim // 2
        sign = torch.ones(size.head_dim)
        sign[:half] = -1
        return x * angle.cos() + x.roll(half, -1) * (angle.sin() * sign)

    everywhere = torch.arange(tokens.shape[1])
    angles = _angles(size, everywhere)
    table = weights["model.embed_tokens.weight"]
    x = embedding(tokens, table)
    for layer in range(size.layers):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")
        k, v = (
            rotated(heads(h, f"{at}.self_attn.k_proj"), angles),
            heads(h, f"{at}.self_attn.v_proj"),
        )
        here, mask = angles, None
        if layer == size.layers - 1:  # the other positions of the last layer are not needed
            rows = positions[..., None].expand(-1, -1, size.dim)
            x, h, here = x.gather(1, rows), h.gather(1, rows), angles[positions][:, None]
            mask = (everywhere <= positions[..., None])[:, None]
        q = rotated(heads(h, f"{at}.self_attn.q_proj"), here)
        attended = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        x = x + linear(
            attended.transpose(1, 2).flatten(2), weights[f"{at}.self_attn.o_proj.weight"]
        )
        h = norm(x, f"{at}.post_attention_layernorm")
        gate, up = (linear(h, weights[f"{at}.mlp.{name}_proj.weight"]) for name in ("gate", "up"))
        x = x + linear(silu(gate) * up, weights[f"{at}.mlp.down_proj.weight"])
    return linear(norm(x, "model.norm"), table)


def _angles(size: TinyArchitecture, positions: Tensor) -> Tensor:
    """Rotary angles ``(T, head_dim)`` with Llama 3's scaling.

    The scaling slows down slow rotations and does not change fast ones.
    """
    import torch

    low, high = ROPE_SCALING["low_freq_factor"], ROPE_SCALING["high_freq_factor"]
    factor, context = ROPE_SCALING["factor"], ROPE_SCALING["original_max_position_embeddings"]
    assert (
        isinstance(low, float)
        and isinstance(high, float)
        and isinstance(factor, float)
        and isinstance(context, int)
    )
    fast = ROPE_THETA ** -(torch.arange(0, size.head_dim, 2) / size.head_dim)
    kept = ((context * fast / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    angles = torch.outer(positions.float(), kept * fast + (1 - kept) * fast / factor)
    return torch.cat([angles, angles], -1)
