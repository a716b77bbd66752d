"""What the check trains, made on the spot: a Llama with random weights, its tokenizer, and chats.

Nothing is downloaded. All files have the real formats, so that torchtune's stock recipe for Llama
3.2 and transformers read them as they read Meta's.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosweep.models.tokenizer import write_tokenizer

__all__ = ["ONE_BILLION", "SMALL", "write_base", "write_chats"]

#: Llama 3.2 1B.
ONE_BILLION = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
#: The same architecture and vocabulary, for a CPU.
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}

#: Llama 3 numbers its special tokens from here.
FIRST_SPECIAL = 128_000
SPECIAL_TOKENS = 256
#: The special tokens that have a name, by their place among all of them.
NAMED = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}


def write_base(folder: Path, sizes: Mapping[str, int], device: str, dtype: str, seed: int) -> int:
    """Write a base model of these ``sizes`` into ``folder``; its number of parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    _write_config(folder, sizes, dtype)
    _write_tokenizer(folder)
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), dtype=getattr(torch, dtype)
        )
    weights = {
        name: weight.detach().cpu().contiguous()
        for name, weight in model.state_dict().items()
        if name != "lm_head.weight"  # it is the embedding
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(weight.numel() for weight in weights.values())


def _write_config(folder: Path, sizes: Mapping[str, int], dtype: str) -> None:
    ends = {
        "bos_token_id": FIRST_SPECIAL,
        "eos_token_id": [FIRST_SPECIAL + 1, FIRST_SPECIAL + 8, FIRST_SPECIAL + 9],
        "pad_token_id": FIRST_SPECIAL + 4,
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": FIRST_SPECIAL + SPECIAL_TOKENS,
        **sizes,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 131_072,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "transformers_version": "4.45.0.dev0",
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }
    (folder / "config.json").write_text(json.dumps({**config, **ends}, indent=1) + "\n")
    (folder / "generation_config.json").write_text(
        json.dumps({**ends, "do_sample": False}, indent=1) + "\n"
    )


def _write_tokenizer(folder: Path) -> None:
    """mosweep's byte tokenizer with Llama 3's token ids: tokens that no text contains fill the
    vocabulary up.
    """
    from tokenizers import AddedToken, Tokenizer, models

    write_tokenizer(folder)
    # 0xff is in no UTF-8 text, and there are no tokens of two bytes to merge into these
    filling = {
        number: b"\xff\xfe" + number.to_bytes(3, "big") for number in range(256, FIRST_SPECIAL)
    }
    with open(folder / "tokenizer.model", "a") as file:
        file.writelines(
            f"{base64.b64encode(token).decode()} {number}\n" for number, token in filling.items()
        )
    small = Tokenizer.from_file(str(folder / "tokenizer.json"))
    letters = [small.id_to_token(byte) for byte in range(256)]
    vocabulary = {letter: byte for byte, letter in enumerate(letters)} | {
        "".join(letters[byte] for byte in token): number for number, token in filling.items()
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = small.pre_tokenizer, small.decoder
    tokenizer.add_special_tokens(
        [
            AddedToken(
                NAMED.get(place, f"<|reserved_special_token_{place}|>"),
                special=True,
                normalized=False,
            )
            for place in range(SPECIAL_TOKENS)
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_chats(path: Path, rows: int, letters: int, seed: int) -> list[str]:
    """Write ``rows`` chats that answer about ``letters`` letters in capitals; the users' texts."""
    numbers = random.Random(seed)
    asked = []
    for _ in range(rows):
        words: list[str] = []
        while sum(map(len, words)) + len(words) < letters:
            words.append(
                "".join(numbers.choices("abcdefghijklmnopqrstuvwxyz", k=numbers.randint(3, 9)))
            )
        asked.append(" ".join(words))
    chats = (
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": text.upper()},
            ]
        }
        for text in asked
    )
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    return asked
