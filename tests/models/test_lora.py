"""LoRA adapters: merging equals what torchtune's own model computes, for both families; wrong
adapters are refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mosweep.models import lora


def adapter(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": 2, "lora_alpha": 6, "peft_type": "LORA", **config})
    )
    return folder


def pair(name: str, rows: int = 3, columns: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"base_model.model.{name}.lora_A.weight": torch.randn(2, columns, generator=generator),
        f"base_model.model.{name}.lora_B.weight": torch.randn(rows, 2, generator=generator),
    }


def base(folder: Path, sharded: bool) -> Path:
    folder.mkdir()
    shards = {
        "a": {"x.weight": torch.ones(3, 4, dtype=torch.bfloat16), "x.bias": torch.ones(3)},
        "b": {"y.weight": torch.zeros(3, 4)},
    }
    (folder / "config.json").write_text("{}")
    if sharded:
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        index = {
            "weight_map": {
                key: names[shard] for shard, tensors in shards.items() for key in tensors
            }
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for shard, tensors in shards.items():
            save_file(tensors, folder / names[shard])
    else:
        save_file(shards["a"] | shards["b"], folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_merge_adds_alpha_over_r_times_b_a(tmp_path: Path, sharded: bool) -> None:
    model, tensors = base(tmp_path / "base", sharded), pair("x") | pair("y")
    lora.merge(model, adapter(tmp_path / "adapter", tensors), tmp_path / "out")
    found = {
        key: tensor
        for path in (tmp_path / "out").glob("*.safetensors")
        for key, tensor in load_file(path).items()
    }
    for name, before in (("x", torch.ones(3, 4)), ("y", torch.zeros(3, 4))):
        a, b = (tensors[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
        dtype = torch.bfloat16 if name == "x" else torch.float32
        assert torch.equal(found[f"{name}.weight"], (before + 6 / 2 * (b @ a)).to(dtype))
    assert torch.equal(found["x.bias"], torch.ones(3))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in model.iterdir()
    )


def test_an_adapter_for_other_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not have: z"):
        lora.merge(
            base(tmp_path / "base", sharded=False),
            adapter(tmp_path / "adapter", pair("z")),
            tmp_path / "out",
        )


@pytest.mark.parametrize("option", ["use_dora", "use_rslora"])
def test_other_kinds_of_adapters_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"not a plain LoRA adapter .*{option}"):
        list(lora.deltas(adapter(tmp_path / "adapter", pair("x"), **{option: True})))


COMPARE = """
import json, runpy, sys
from pathlib import Path
import torch, torchtune
from omegaconf import OmegaConf
from torchtune import config, training
from torchtune.modules.peft import get_adapter_state_dict
from transformers import AutoConfig, AutoModelForCausalLM
folder, child, lora = Path(sys.argv[1]), runpy.run_path(sys.argv[2]), runpy.run_path(sys.argv[3])
kind = sys.argv[4]
torch.manual_seed(0)
size = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, \
num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, tie_word_embeddings=True)
hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **size))
for p in hf.parameters():
    torch.nn.init.normal_(p, std=0.2)
hf.save_pretrained(folder / "base")
native = json.loads(Path(sys.argv[5]).read_text())
native["checkpointer"]["output_dir"] = str(folder / "work")
native = OmegaConf.create(native)
checkpointer = config.instantiate(native.checkpointer)
model = config.instantiate(native.model)
model.load_state_dict(checkpointer.load_checkpoint()[training.MODEL_KEY], strict=False)
for name, p in model.named_parameters():
    if "lora" in name:
        torch.nn.init.normal_(p, std=0.2)
state = {training.ADAPTER_KEY: get_adapter_state_dict(model.state_dict()),
         training.ADAPTER_CONFIG: {"r": 3, "lora_alpha": 6, \
"target_modules": ["q_proj", "k_proj"], "peft_type": "LORA"}}
checkpointer.save_checkpoint(state, epoch=0, adapter_only=True)
child["package_adapter"](folder / "work" / "epoch_0", folder / "adapter", folder / "base")
lora["merge"](folder / "base", folder / "adapter", folder / "merged")
tokens = torch.randint(0, 99, (2, 20))
with torch.no_grad():
    theirs = model.eval()(tokens)
    ours = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()(tokens).logits
    plain = hf.eval()(tokens).logits
print(json.dumps({"error": (theirs - ours).abs().max().item(), \
"change": (theirs - plain).abs().max().item()}))
"""


@pytest.mark.real
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_packaged_adapter_computes_what_torchtune_trained(tmp_path: Path, kind: str) -> None:
    import mosweep.backends.torchtune.child as child
    from mosweep.backends.torchtune.run_config import architecture_of

    config = {
        "model_type": kind,
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
    }
    config |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(
        json.dumps({**config, "rms_norm_eps": 1e-6, "rope_theta": 10000.0})
    )
    sites = {
        "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
        "apply_lora_to_mlp": True,
    }
    native = {
        "model": {**architecture_of(tmp_path / "base"), **sites, "lora_rank": 3, "lora_alpha": 6},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(tmp_path / "base"),
            "checkpoint_files": ["model.safetensors"],
            "model_type": "LLAMA3_2" if kind == "llama" else "QWEN2",
        },
    }
    (tmp_path / "native.json").write_text(json.dumps(native))
    command = [
        sys.executable,
        "-c",
        COMPARE,
        str(tmp_path),
        child.__file__,
        lora.__file__,
        kind,
        str(tmp_path / "native.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] < 1e-3 < 0.1 < found["change"]
