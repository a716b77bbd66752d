"""The tokenizer of the tiny models: one token per byte, and Llama 3's special tokens and template.

It is written in two formats: ``tokenizer.json`` for transformers, and ``tokenizer.model`` for
torchtune, which also reads the ids of special tokens from ``tokenizer.json``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

__all__ = ["BOS", "EOS", "EOT", "PAD", "SPECIAL", "VOCABULARY", "prompt_frame", "write_tokenizer"]

#: The special tokens. The n-th, counting from 0, has the id 256 + n.
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
#: Number of token ids.
VOCABULARY = 256 + len(SPECIAL)
BOS, EOS, PAD, START, END, EOT = (256 + n for n in (0, 1, 2, 4, 5, 7))

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def prompt_frame() -> tuple[list[int], list[int]]:
    """Token ids before and after the user's text in a prompt of one message."""

    def header(role: str) -> list[int]:
        return [START, *role.encode(), END, *b"\n\n"]

    return [BOS, *header("user")], [EOT, *header("assistant")]


def write_tokenizer(folder: Path) -> None:
    """Write the files of the tokenizer to ``folder``, which must exist.

    These are ``tokenizer.json``, ``tokenizer.model``, ``tokenizer_config.json``,
    ``special_tokens_map.json`` and ``chat_template.jinja``.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(vocab={letter: byte for byte, letter in enumerate(_byte_letters())}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    )
    tokenizer.save(str(folder / "tokenizer.json"))

    ranks = (f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (folder / "tokenizer.model").write_text("".join(ranks))

    names = {
        "bos_token": SPECIAL[0],
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def _byte_letters() -> list[str]:
    """For each byte, the printable letter that stands for it in GPT-2's byte-level tokenizers."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
