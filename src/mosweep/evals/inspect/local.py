"""Inspect's model provider ``mosweep/NAME``: local checkpoints and LoRA adapters, generation in
micro-batches.

``get_model("mosweep/NAME", base=FOLDER, adapter=FOLDER, device="auto", dtype=None)``; the name is
only what logs show.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from mosweep.evals.inspect.generation import Completion, Prompt, Sampling, checkpoint

__all__ = ["LocalAPI"]

#: How long the first request of a batch waits for others, at least, in seconds; each newcomer
#: extends it.
GATHER_S = 0.005

_Request = tuple[list[dict[str, str]], Sampling, "asyncio.Future[Completion]"]


class LocalAPI(ModelAPI):
    """Generates with a base model in ``base`` (a Hugging Face folder), with ``adapter`` (PEFT's
    layout) added if given.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        *,
        base: str,
        adapter: str | None = None,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.base, self.adapter = Path(base), Path(adapter) if adapter else None
        self.device, self.dtype = device, dtype
        for folder, file in ((self.base, "config.json"), (self.adapter, "adapter_config.json")):
            if folder is not None and not (folder / file).exists():
                raise ValueError(f"{folder} holds no {file}")
        self._waiting: list[_Request] = []
        self._flusher: asyncio.Task[None] | None = None

    def max_connections(self) -> int:
        """As many requests as a batch may want."""
        return 1000

    def max_tokens(self) -> int | None:
        """Default length of a completion, in tokens; the model's context bounds it too."""
        return 2048

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One completion; requests that arrive together are computed together."""
        if tools:
            raise ValueError(
                "local models are evaluated without tools; this task gives its model some"
            )
        sampling = Sampling(
            max_tokens=config.max_tokens or 2048,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            seed=config.seed,
            stop=tuple(config.stop_seqs or ()),
        )
        chat = [{"role": message.role, "content": message.text} for message in input]
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((chat, sampling, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        completion = await future
        message = ChatMessageAssistant(
            content=completion.text, model=self.model_name, source="generate"
        )
        choice = ChatCompletionChoice(
            message=message, stop_reason="stop" if completion.finished else "max_tokens"
        )
        spent, made = completion.input_tokens, completion.output_tokens
        usage = ModelUsage(input_tokens=spent, output_tokens=made, total_tokens=spent + made)
        return ModelOutput(model=self.model_name, choices=[choice], usage=usage)

    async def _flush(self) -> None:
        while self._waiting:
            seen = 0
            while seen != len(self._waiting):
                seen = len(self._waiting)
                await asyncio.sleep(GATHER_S)
            requests, self._waiting = self._waiting, []
            by_sampling: dict[Sampling, list[_Request]] = {}
            for request in requests:
                by_sampling.setdefault(request[1], []).append(request)
            for sampling, group in by_sampling.items():
                try:
                    completions = await asyncio.to_thread(
                        self._complete, [chat for chat, _, _ in group], sampling
                    )
                except Exception as error:  # every waiting sample fails with the reason
                    for _, _, future in group:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, _, future), completion in zip(group, completions, strict=True):
                        if not future.done():
                            future.set_result(completion)

    def _complete(self, chats: list[list[dict[str, str]]], sampling: Sampling) -> list[Completion]:
        with checkpoint(self.base, self.adapter, self.device, self.dtype) as model:
            return model.generate([_render(model.tokenizer, chat) for chat in chats], sampling)


def _render(tokenizer: Any, chat: list[dict[str, str]]) -> Prompt:
    """The chat as the model's template writes it; that text has its BOS, if the model wants one."""
    if tokenizer.chat_template is None:
        return Prompt(
            "".join(f"{message['role']}: {message['content']}\n" for message in chat)
            + "assistant:",
            special_tokens=True,
        )
    return Prompt(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
