"""The Inspect model provider ``tinker``, which samples from models on Tinker.

``tinker/MODEL@WEIGHTS`` is a fine-tuned model and ``tinker/MODEL`` a base model, as in
``get_model("tinker/Qwen/Qwen3-8B@tinker://…", renderer="qwen3", tokenizer=FOLDER)``.

Chats are rendered as in training, by default with the renderer that tinker-cookbook recommends.
Decoding is greedy unless a temperature is set, as for local models. The weights are part of the
model name, so Inspect's cache distinguishes checkpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from mosweep.backends.tinker.service import address, check_key, load_renderer, recommended_renderer
from mosweep.core.generation import chat_of_text, check_sampling, check_settings

if TYPE_CHECKING:
    from tinker import SamplingClient

__all__ = ["TinkerAPI"]

#: Requests that run at the same time.
CONNECTIONS = 128
#: Seconds without progress in any request before the evaluation fails.
PATIENCE_S = 900.0
#: Settings of ``GenerateConfig`` that are honoured, besides those that Inspect itself honours.
HONOURED = frozenset("max_tokens temperature top_p top_k seed stop_seqs num_choices".split())
_MODELS = "models on Tinker"


class TinkerAPI(ModelAPI):
    """Samples from a model on Tinker."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        *,
        renderer: str | None = None,
        tokenizer: str | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if api_key is None:
            check_key()
        self.base, _, self.weights = model_name.partition("@")
        if self.weights and not self.weights.startswith("tinker://"):
            raise ValueError(
                f"tinker/{model_name}: expected the path of the weights after @: tinker://…"
            )
        self.renderer_name, self.tokenizer = renderer or recommended_renderer(self.base), tokenizer
        self._loading: asyncio.Task[tuple[Any, SamplingClient]] | None = None

    def max_connections(self) -> int:
        """``CONNECTIONS``. Tinker batches concurrent requests."""
        return CONNECTIONS

    def max_tokens(self) -> int | None:
        """The default limit of a completion, in tokens."""
        return 2048

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Sample ``num_choices`` completions in one request to Tinker."""
        from tinker import SamplingParams

        if tools:
            raise ValueError("models on Tinker do not support tools, which this task uses")
        check_settings(config.model_dump(exclude_none=True), HONOURED, _MODELS)
        check_sampling(config.temperature, config.top_p, config.top_k)
        chat = chat_of_text(input, _MODELS)
        prefill = chat.pop()["content"] if chat and chat[-1]["role"] == "assistant" else None
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))
        renderer, client = await asyncio.shield(self._loading)
        prompt = renderer.build_generation_prompt(chat, prefill=prefill)
        params = SamplingParams(
            max_tokens=config.max_tokens or 2048,
            temperature=config.temperature or 0.0,
            top_p=config.top_p if config.top_p is not None else 1.0,
            top_k=config.top_k if config.top_k is not None else -1,
            seed=config.seed,
            stop=renderer.get_stop_sequences(),
        )
        answer = await client.sample(prompt, config.num_choices or 1, params)
        choices = [
            self._choice(renderer, sequence, config.stop_seqs or ())
            for sequence in answer.sequences
        ]
        output = sum(len(sequence.tokens) for sequence in answer.sequences)
        usage = ModelUsage(
            input_tokens=prompt.length, output_tokens=output, total_tokens=prompt.length + output
        )
        return ModelOutput(model=self.model_name, choices=choices, usage=usage)

    def _load(self) -> tuple[Any, SamplingClient]:
        import tinker
        from tinker.lib.retry_handler import RetryConfig

        renderer = load_renderer(self.renderer_name, self.base, self.tokenizer)
        service = tinker.ServiceClient(
            base_url=address(self.base_url),
            api_key=self.api_key,
            user_metadata={"mosweep": "evaluation"},
        )
        retries = RetryConfig(max_connections=None, progress_timeout=PATIENCE_S)
        base, weights = (None, self.weights) if self.weights else (self.base, None)
        return renderer, service.create_sampling_client(
            model_path=weights, base_model=base, retry_config=retries
        ).result()

    def _choice(self, renderer: Any, sequence: Any, stops: Sequence[str]) -> ChatCompletionChoice:
        content = renderer.parse_response(sequence.tokens)[0]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        thoughts = [
            ContentReasoning(reasoning=part["thinking"])
            for part in parts
            if part["type"] == "thinking"
        ]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        cut = min((index for word in stops if (index := text.find(word)) >= 0), default=None)
        contents: list[Content] = [*thoughts, ContentText(text=text[:cut])]
        message = ChatMessageAssistant(
            content=contents if thoughts else text[:cut], model=self.model_name, source="generate"
        )
        return ChatCompletionChoice(
            message=message,
            stop_reason="max_tokens"
            if sequence.stop_reason == "length" and cut is None
            else "stop",
        )
