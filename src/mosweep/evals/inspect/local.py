"""The Inspect model provider ``mosweep``: local checkpoints and LoRA adapters, in micro-batches.

Use it as ``get_model("mosweep/NAME", base=FOLDER, adapter=FOLDER, device="auto", dtype=None)``. The
name only appears in logs.
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
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from mosweep.core.generation import chat_of_text, check_sampling, check_settings
from mosweep.evals.inspect.generation import Completion, Prompt, Sampling, checkpoint, identity
from mosweep.evals.inspect.options import LOCAL

__all__ = ["LocalAPI"]

LOCAL_MODELS = "local models"

#: Seconds that a batch waits for further requests. Each new request starts the wait again.
GATHER_S = 0.005

_Request = tuple[list[dict[str, str]], Sampling, "asyncio.Future[Completion]"]


class LocalAPI(ModelAPI):
    """Generates with the model in ``base``, a Hugging Face folder.

    ``adapter`` is a folder in PEFT's layout whose adapter is added.
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
        self.base, self.adapter = Path(base), Path(adapter) if adapter else None
        # Inspect's cache of answers tells models apart by name and address, so the weights are the
        # address: else a fine-tune would get the answers of its base model.
        weights = identity(self.base, self.adapter)
        super().__init__(model_name, base_url or weights, api_key, [], config)
        self.device, self.dtype = device, dtype
        for folder, file in ((self.base, "config.json"), (self.adapter, "adapter_config.json")):
            if folder is not None and not (folder / file).exists():
                raise ValueError(f"{folder} has no {file}")
        self._waiting: list[_Request] = []
        self._flusher: asyncio.Task[None] | None = None

    def max_connections(self) -> int:
        """Many, so that requests form large batches."""
        return 1000

    def max_tokens(self) -> int | None:
        """The default limit of a completion, in tokens. The model's context limits it, too."""
        return 2048

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One completion. Requests that arrive together form a batch."""
        if tools:
            raise ValueError("local models cannot use tools, but this task gives its model tools")
        check_settings(config.model_dump(exclude_none=True), LOCAL, LOCAL_MODELS)
        check_sampling(config.temperature, config.top_p, config.top_k)
        logprobs = bool(config.logprobs or config.top_logprobs)
        sampling = Sampling(
            max_tokens=config.max_tokens or 2048,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            seed=config.seed,
            stop=tuple(config.stop_seqs or ()),
            top_logprobs=(config.top_logprobs or 0) if logprobs else None,
        )
        chat = chat_of_text(input, LOCAL_MODELS)
        futures: list[asyncio.Future[Completion]] = [
            asyncio.get_running_loop().create_future() for _ in range(config.num_choices or 1)
        ]
        self._waiting += [(chat, sampling, future) for future in futures]
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        completions = await asyncio.gather(*futures)
        read, written = completions[0].input_tokens, sum(c.output_tokens for c in completions)
        usage = ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)
        choices = [_choice(completion, self.model_name) for completion in completions]
        return ModelOutput(model=self.model_name, choices=choices, usage=usage)

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
                except Exception as error:  # all samples of the batch fail with this error
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


def _choice(completion: Completion, model: str) -> ChatCompletionChoice:
    message = ChatMessageAssistant(content=completion.text, model=model, source="generate")
    logprobs = completion.logprobs and Logprobs(
        content=[
            Logprob(
                token=each.token,
                logprob=each.logprob,
                bytes=list(each.token.encode()),
                top_logprobs=[
                    TopLogprob(token=token, logprob=value, bytes=list(token.encode()))
                    for token, value in each.top
                ],
            )
            for each in completion.logprobs
        ]
    )
    return ChatCompletionChoice(
        message=message,
        stop_reason="stop" if completion.finished else "max_tokens",
        logprobs=logprobs or None,
    )


def _render(tokenizer: Any, chat: list[dict[str, str]]) -> Prompt:
    """The chat, rendered with the model's template, which also writes BOS if the model uses it.

    The model continues a last message that is the assistant's own.
    """
    prefill = bool(chat) and chat[-1]["role"] == "assistant"
    if tokenizer.chat_template is None:
        text = "\n".join(f"{message['role']}: {message['content']}" for message in chat)
        return Prompt(text if prefill else f"{text}\nassistant:", special_tokens=True)
    return Prompt(
        tokenizer.apply_chat_template(
            chat,
            add_generation_prompt=not prefill,
            continue_final_message=prefill,
            tokenize=False,
        )
    )
