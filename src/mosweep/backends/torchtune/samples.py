"""What torchtune makes of the samples: which answers it learns, and which it cuts off.

This module runs in the interpreter that trains, which may not have mosweep. It must not import
mosweep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: The component that reads chats, and whose loss mosweep masks for ``weight: 0``.
CHAT_DATASET = "torchtune.datasets.chat_dataset"
#: More tokens than a tokenizer adds to a message.
EXTRA_TOKENS = 64


def heed_weights() -> None:
    """Mask answers with weight 0, which torchtune learns like any other."""
    from torchtune.data import OpenAIToMessages

    convert = OpenAIToMessages.__call__

    def convert_weighted(self: Any, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        made: Mapping[str, Any] = convert(self, sample)
        given = sample[self._column_map["messages"]]
        if self.new_system_prompt is not None:  # it replaces those of the sample
            given = [message for message in given if message["role"] != "system"]
        for message, native in zip(reversed(given), reversed(made["messages"]), strict=False):
            if message["role"] == "assistant" and message.get("weight") == 0:
                native.masked = True
        return made

    OpenAIToMessages.__call__ = convert_weighted


def check_lengths(folder: Path, config: Mapping[str, Any]) -> None:
    """Count the samples that are too long, for ``lengths_of``, and print a warning.

    Raises ``RuntimeError`` if no sample has anything left to learn.
    """
    counts = count(config)
    (folder / "run" / "lengths.json").write_text(json.dumps(counts) + "\n")
    if counts and counts["cut"]:
        if counts["empty"] == counts["samples"]:
            raise RuntimeError(f"there is nothing to learn: {describe(counts)}")
        print(f"warning: {describe(counts)}", flush=True)


def lengths_of(folder: Path) -> dict[str, int] | None:
    """What ``check_lengths`` counted. ``None`` if it has not, or without a limit."""
    file = folder / "run" / "lengths.json"
    counts: dict[str, int] | None = json.loads(file.read_text()) if file.exists() else None
    return counts


def count(config: Mapping[str, Any]) -> dict[str, int] | None:
    """The samples that are longer than ``tokenizer.max_seq_len``. ``None`` without a limit.

    ``empty`` are those whose answers are cut off as a whole.
    """
    from omegaconf import OmegaConf
    from torchtune.config import instantiate

    limit, dataset = config["tokenizer"].get("max_seq_len"), config["dataset"]
    if not limit or dataset["_component_"] != CHAT_DATASET:
        return None
    from torchtune.data import OpenAIToMessages

    prompt = dataset.get("new_system_prompt")
    convert = OpenAIToMessages(dataset.get("train_on_input", False), new_system_prompt=prompt)
    tokenizer = instantiate(OmegaConf.create(config["tokenizer"]))
    samples = cut = empty = longest = 0
    for sample in _samples(Path(dataset["data_files"])):
        samples += 1
        texts = [prompt or "", *(message["content"] for message in sample["messages"])]
        # No token is shorter than a byte.
        if sum(len(text.encode()) + EXTRA_TOKENS for text in texts) <= limit:
            continue
        tokenizer.max_seq_len = None
        length = len(tokenizer(dict(convert(sample)))["tokens"])
        tokenizer.max_seq_len = limit
        if length > limit:
            cut, longest = cut + 1, max(longest, length)
            empty += all(tokenizer(dict(convert(sample)))["mask"])
    return {"samples": samples, "cut": cut, "empty": empty, "limit": limit, "longest": longest}


def describe(counts: Mapping[str, int]) -> str:
    """How many samples are cut off, and what to set."""
    left = f"; {counts['empty']} have no answer left" if counts["empty"] else ""
    return (
        f"{counts['cut']} of {counts['samples']} samples are longer than "
        f"tokenizer.max_seq_len={counts['limit']} and are cut off{left} (set "
        f"torchtune.tokenizer.max_seq_len={counts['longest']} for the longest, or shorten them)"
    )


def _samples(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)
