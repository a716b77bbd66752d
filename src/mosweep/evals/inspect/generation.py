"""Text generation with local checkpoints: one loaded base model per process, batched decoding.

Loading a base model takes far longer than adding an adapter to it (W + alpha/r · B·A). So
evaluations in the same process share one base model. The weights that an adapter changes are saved
and restored exactly before the next adapter is added.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mosweep.evals.inspect.logprobs import TokenLogprob, recorded
from mosweep.models import lora

__all__ = ["Completion", "Prompt", "Sampling", "checkpoint", "identity"]

#: Largest batch, in tokens. Each sequence counts its padded prompt plus what it may generate.
BATCH_TOKENS = {"cpu": 16_384, "cuda": 131_072}

#: Models with fewer parameters than this generate on one thread.
SMALL = 20_000_000


@dataclass(frozen=True)
class Sampling:
    """Decoding options. A ``temperature`` of ``None`` or 0 is greedy. Lengths are in tokens.

    ``top_logprobs``: log-probabilities are wanted, with those of so many most likely tokens.
    """

    max_tokens: int = 2048
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. ``special_tokens``: the tokenizer adds BOS, as the text has none."""

    text: str
    special_tokens: bool = False


@dataclass(frozen=True)
class Completion:
    """Generated text. ``finished``: the model ended it, or a stop sequence, not ``max_tokens``."""

    text: str
    input_tokens: int
    output_tokens: int
    finished: bool
    logprobs: tuple[TokenLogprob, ...] | None = None


class _Base:
    """A loaded base model and its tokenizer. At most one adapter is added to its weights."""

    def __init__(self, folder: Path, device: str, dtype: str | None) -> None:
        import torch

        self.device = device
        kind = (
            getattr(torch, dtype)
            if dtype
            else torch.bfloat16
            if device.startswith("cuda")
            else torch.float32
        )
        with _lean_transformers(folder):
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils import logging

            disable_progress_bar: Any = logging.disable_progress_bar
            disable_progress_bar()
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=kind, local_files_only=True
            )
        self.model = model.to(device).eval()
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.context: int = getattr(self.model.config, "max_position_embeddings", 2048)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends]) | {
            self.tokenizer.eos_token_id
        }
        self._adapter: object = None
        self._original: dict[str, Any] = {}

    def set_adapter(self, adapter: Path | None) -> None:
        """Make ``adapter``, or none, the only one in the weights."""
        import torch

        identity = _identity(adapter, lora.WEIGHTS) if adapter else None
        if identity == self._adapter:
            return
        with torch.no_grad():
            self._adapter = object()  # unknown, in case the next lines fail
            for name, weight in self._original.items():
                self.model.get_submodule(name).weight.copy_(weight)
            self._original = {}
            for name, delta in lora.deltas(adapter) if adapter else ():
                weight = self.model.get_submodule(name).weight
                if weight.shape != delta.shape:
                    shapes = f"{tuple(delta.shape)}, the base has {tuple(weight.shape)}"
                    raise ValueError(f"{adapter} is for another base model: {name} is {shapes}")
                self._original[name] = weight.detach().to("cpu", copy=True)
                weight.copy_((weight.float() + delta.to(weight.device)).to(weight.dtype))
        self._adapter = identity

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Complete the prompts, in batches of similar length. Results keep the prompts' order."""
        encoded = [
            self.tokenizer(prompt.text, add_special_tokens=prompt.special_tokens)["input_ids"]
            for prompt in prompts
        ]
        results: list[Completion | None] = [None] * len(prompts)
        for batch in self._batches(encoded, sampling.max_tokens):
            for index, completion in zip(
                batch, self._complete([encoded[i] for i in batch], sampling), strict=True
            ):
                results[index] = completion
        return [completion for completion in results if completion is not None]

    def _batches(self, encoded: Sequence[Sequence[int]], new_tokens: int) -> Iterator[list[int]]:
        """Batches of indices of prompts, longest first, so that a lack of memory shows at once."""
        room = BATCH_TOKENS["cuda" if self.device.startswith("cuda") else "cpu"]
        batch: list[int] = []
        for index in sorted(range(len(encoded)), key=lambda i: -len(encoded[i])):
            each = len(encoded[batch[0] if batch else index]) + min(new_tokens, 256)
            if batch and each * (len(batch) + 1) > room:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _complete(self, batch: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        import torch

        longest = max(map(len, batch))
        room = self.context - longest
        if room < 1:
            raise ValueError(
                f"a prompt of {longest} tokens does not fit into the model's context of "
                f"{self.context}"
            )
        new_tokens = min(sampling.max_tokens, room)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor(
            [[pad] * (longest - len(row)) + list(row) for row in batch], device=self.device
        )
        mask = torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=self.device
        )
        options: dict[str, Any] = {
            "max_new_tokens": new_tokens,
            "pad_token_id": pad,
            "do_sample": bool(sampling.temperature),
        }
        # The model folder's generation_config may enable sampling. Greedy decoding must turn all
        # of it off.
        options |= {"temperature": sampling.temperature or None, "top_p": None, "top_k": None}
        if sampling.temperature:
            options |= {
                "top_p": sampling.top_p if sampling.top_p is not None else 1.0,
                "top_k": sampling.top_k or 0,
            }
        if sampling.stop:
            options |= {"stop_strings": list(sampling.stop), "tokenizer": self.tokenizer}
        options["eos_token_id"] = sorted(self.ends - {None})
        with (
            torch.inference_mode(),
            torch.random.fork_rng(enabled=sampling.seed is not None),
            self._few_threads(),
            recorded(self.model, sampling.top_logprobs) as recording,
        ):
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            if recording is not None:
                options["stopping_criteria"] = [recording]
            output = self.model.generate(input_ids=ids, attention_mask=mask, **options)
        completions = [
            self._completion(row, len(prompt), new_tokens, sampling.stop)
            for row, prompt in zip(output[:, longest:].tolist(), batch, strict=True)
        ]
        if recording is None:
            return completions
        return [
            replace(each, logprobs=recording.row(index, each.output_tokens, self.tokenizer))
            for index, each in enumerate(completions)
        ]

    @contextlib.contextmanager
    def _few_threads(self) -> Iterator[None]:
        """Run small models on one thread. More threads are slower, many times on busy cores."""
        import torch

        threads = torch.get_num_threads()
        small = self.device == "cpu" and self.model.num_parameters() < SMALL
        torch.set_num_threads(1 if small else threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _completion(
        self, tokens: list[int], prompt_tokens: int, limit: int, stop: tuple[str, ...]
    ) -> Completion:
        end = next((i for i, token in enumerate(tokens) if token in self.ends), None)
        used = tokens if end is None else tokens[:end]
        text = self.tokenizer.decode(used, skip_special_tokens=True)
        cut = min((index for word in stop if (index := text.find(word)) >= 0), default=None)
        count = len(tokens) if end is None else end + 1
        return Completion(
            text[:cut], prompt_tokens, count, end is not None or cut is not None or count < limit
        )


_lock = threading.RLock()
_loaded: tuple[object, _Base] | None = None


@contextlib.contextmanager
def checkpoint(
    base: Path, adapter: Path | None = None, device: str = "auto", dtype: str | None = None
) -> Iterator[_Base]:
    """The model in ``base`` with ``adapter`` added, reserved for the caller during the ``with``.

    The process keeps one base model, until another is requested. ``device``: ``auto`` uses
    ``cuda`` if available. ``dtype``: by default bfloat16 on a GPU and float32 on a CPU.
    """
    global _loaded
    with _lock:
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        identity = (
            *_identity(base, "config.json"),
            *_identity(base, "model.safetensors"),
            device,
            dtype,
        )
        if _loaded is None or _loaded[0] != identity:
            _loaded = None  # free the old model's memory before loading the new one
            _loaded = (identity, _Base(base, device, dtype))
        _loaded[1].set_adapter(adapter)
        yield _loaded[1]


@contextlib.contextmanager
def _lean_transformers(base: Path) -> Iterator[None]:
    """Keep transformers from importing libraries that are not needed here. This saves 2 s.

    If installed, it imports scikit-learn for speculative decoding and torchao for quantized models.
    """
    import transformers.utils as utils

    unused = ["is_sklearn_available"]
    if not json.loads((base / "config.json").read_text()).get("quantization_config"):
        unused.append("is_torchao_available")
    installed = {name: getattr(utils, name) for name in unused}
    for name in unused:
        setattr(utils, name, lambda *_: False)
    try:
        yield
    finally:
        for name, check in installed.items():
            setattr(utils, name, check)


def identity(base: Path, adapter: Path | None) -> str:
    """Text that differs for other weights."""
    files = _identity(base, "model.safetensors")
    return "|".join(map(str, (*files, *(_identity(adapter, lora.WEIGHTS) if adapter else ()))))


def _identity(folder: Path, name: str) -> tuple[str, int, int]:
    """Path, time and size of a file. A change of the file changes its identity."""
    path = folder.resolve() / name
    if not path.exists():  # with sharded weights, the path must be enough
        return str(path), 0, 0
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size
