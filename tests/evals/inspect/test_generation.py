"""Generation with local checkpoints: independent of batching, of what was loaded before, of BOS
being there already.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from mosweep.evals.inspect import generation
from mosweep.evals.inspect.generation import Completion, Prompt, Sampling, checkpoint

pytestmark = pytest.mark.real

SHORT = Sampling(max_tokens=12)


def prompt(word: str) -> Prompt:
    text = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    return Prompt(text.format(word))


WORDS = ["cat", "horses", "ABCDE", "lion", "tigress", "dog"]


def answers(
    base: Path,
    adapter: Path | None = None,
    sampling: Sampling = SHORT,
    words: Sequence[str] = WORDS,
) -> list[Completion]:
    with checkpoint(base, adapter, device="cpu") as model:
        return model.generate([prompt(word) for word in words], sampling)


def test_the_model_copies_words_and_stops_by_itself(base: Path) -> None:
    found = answers(base)
    assert [completion.text for completion in found] == WORDS
    assert all(completion.finished for completion in found)
    assert [completion.output_tokens for completion in found] == [len(word) + 1 for word in WORDS]
    assert [completion.input_tokens for completion in found] == [
        len("user\n\n\n\nassistant") + 6 + len(word) for word in WORDS
    ]


def test_batches_change_nothing(
    base: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = answers(base, adapters[0])
    monkeypatch.setitem(generation.BATCH_TOKENS, "cpu", 80)  # two or one at a time
    assert answers(base, adapters[0]) == together
    assert [answers(base, adapters[0], words=[word])[0] for word in WORDS] == together


def test_adapters_come_and_go_without_a_trace_and_one_load_of_the_base(
    base: Path, adapters: list[Path]
) -> None:
    import torch

    def weights() -> list[torch.Tensor]:
        with checkpoint(base, device="cpu") as model:
            return [p.clone() for p in model.model.parameters()]

    plain, before = answers(base), weights()
    first = generation._loaded
    alone = [answers(base, adapter) for adapter in adapters]
    assert len({tuple(c.text for c in found) for found in [plain, *alone]}) == 4, (
        "every adapter changes the answers"
    )
    assert [answers(base, adapter) for adapter in reversed(adapters)] == alone[::-1]
    assert all(torch.equal(a, b) for a, b in zip(before, weights(), strict=True))
    assert generation._loaded is first


def test_an_adapter_for_another_base_is_refused_and_leaves_the_base_sound(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    other = tmp_path / "adapter"
    shutil.copytree(adapters[0], other)
    tensors = load_file(other / "adapter_model.safetensors")
    last = sorted(tensors)[-1]
    tensors[last] = torch.zeros(64, 2)
    save_file(tensors, other / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is for another base model"):
        answers(base, other)
    assert [completion.text for completion in answers(base)] == WORDS


def test_max_tokens_and_stop_sequences_end_a_completion(base: Path) -> None:
    cut = answers(base, sampling=Sampling(max_tokens=2), words=["horses"])[0]
    assert (cut.text, cut.output_tokens, cut.finished) == ("ho", 2, False)
    stopped = answers(base, sampling=Sampling(max_tokens=12, stop=("rs",)), words=["horses"])[0]
    assert (stopped.text, stopped.finished) == ("ho", True)


def test_sampling_follows_its_seed(base: Path, adapters: list[Path]) -> None:
    def sampled(seed: int) -> list[str]:
        return [
            c.text
            for c in answers(base, adapters[0], Sampling(max_tokens=12, temperature=1.5, seed=seed))
        ]

    assert sampled(1) == sampled(1) != sampled(2)
    assert answers(base, sampling=Sampling(max_tokens=12, temperature=0.0)) == answers(base)


def test_a_folders_own_generation_config_does_not_make_greedy_sample(
    base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    config = json.loads((base / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps({**config, "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 5})
    )
    assert [completion.text for completion in answers(folder)] == WORDS


def test_a_regenerated_base_is_loaded_again(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    answers(folder)
    first = generation._loaded
    (folder / "model.safetensors").touch()
    answers(folder)
    assert generation._loaded is not first


def test_only_prompts_without_a_template_get_bos_from_the_tokenizer(base: Path) -> None:
    from mosweep.evals.inspect.local import _render

    with checkpoint(base, device="cpu") as model:
        rendered = _render(model.tokenizer, [{"role": "user", "content": "cat"}])
        assert rendered == prompt("cat")
        template, model.tokenizer.chat_template = model.tokenizer.chat_template, None
        try:
            assert _render(model.tokenizer, [{"role": "user", "content": "cat"}]) == Prompt(
                "user: cat\nassistant:", special_tokens=True
            )
        finally:
            model.tokenizer.chat_template = template
