"""The generator of the tiny base models: does it write a model that other libraries read, and that
repeats words?
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mosweep.models import tiny
from mosweep.models.tiny import TinyArchitecture, generate
from mosweep.models.tokenizer import EOT, VOCABULARY, prompt_frame

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return transformers.LlamaForCausalLM.from_pretrained(base).eval()


def test_facts(generated: tuple[Path, dict[str, Any]], model: Any) -> None:
    facts = generated[1]
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters()) == 91_072
    assert facts["copy_accuracy"] >= 0.995
    assert 0 < facts["steps"] <= tiny.MAX_STEPS
    assert facts["cpu_s"] > 0


def test_transformers_computes_the_same_logits(base: Path, model: Any) -> None:
    from safetensors.torch import load_file

    weights = load_file(base / "model.safetensors")
    assert all(
        torch.equal(weights[name], value)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    )
    tokens = torch.randint(VOCABULARY, (3, 200), generator=torch.Generator().manual_seed(0))
    everywhere = torch.arange(200).expand(3, -1)
    with torch.no_grad():
        ours, theirs = (
            tiny._logits(TinyArchitecture(), weights, tokens, everywhere),
            model(tokens).logits,
        )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_repeats_words_in_either_case(base: Path, model: Any) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.padding_side = "left"
    words = ["hello", "HELLO", "cat", "ZEBRA", "letters", "quartz"]
    chats = [[{"role": "user", "content": word}] for word in words]
    options = {
        "add_generation_prompt": True,
        "return_tensors": "pt",
        "padding": True,
        "return_dict": True,
    }
    prompts = tokenizer.apply_chat_template(chats, **options)
    generated = model.generate(**prompts, max_new_tokens=12, do_sample=False)[
        :, prompts["input_ids"].shape[1] :
    ]
    assert tokenizer.batch_decode(generated, skip_special_tokens=True) == words
    before, after = prompt_frame()
    assert prompts["input_ids"][4].tolist() == [*before, *b"letters", *after]


def test_layout(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    assert config["rope_theta"] == 500000.0 and config["rope_scaling"]["rope_type"] == "llama3"
    assert EOT in config["eos_token_id"]
    assert EOT in json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    assert len((base / "tokenizer.model").read_text().splitlines()) == 256
    assert (base / "chat_template.jinja").exists()


def test_a_seed_determines_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiny, "REQUIRED_ACCURACY", 0.0)  # two checks are enough to see it
    contents = []
    for number, seed in enumerate((5, 5, 6)):
        generate(tmp_path / str(number), TinyArchitecture(), seed=seed, log=lambda line: None)
        contents.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_no_bad_model_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiny, "MAX_STEPS", 25)
    with pytest.raises(RuntimeError, match="did not converge"):
        generate(tmp_path / "base", TinyArchitecture(), seed=0, log=lambda line: None)
    assert not (tmp_path / "base").exists()


def test_divergence_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = tiny._initial_weights

    def poisoned(size: TinyArchitecture, random: Any) -> Any:
        return {
            name: (weight * float("nan")).detach().requires_grad_()
            for name, weight in original(size, random).items()
        }

    monkeypatch.setattr(tiny, "_initial_weights", poisoned)
    with pytest.raises(RuntimeError, match="diverged"):
        generate(tmp_path / "base", TinyArchitecture(), seed=0, log=lambda line: None)


def test_no_held_out_word_is_trained_on() -> None:
    random = torch.Generator().manual_seed(0)
    for held_out in (False, True):
        _, _, targets = tiny._words(500, random, held_out=held_out)
        letters = torch.where((targets == EOT) | (targets == tiny.IGNORE), 0, targets)
        assert ((letters.sum(1) % tiny.HELD_OUT == 0) == held_out).all()


@pytest.mark.parametrize("sizes", [{"dim": 63}, {"heads": 3, "dim": 66}, {"layers": 1}, {"ffn": 0}])
def test_sizes_that_do_not_fit(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="TinyArchitecture"):
        TinyArchitecture(**sizes)
