"""What Hydra, OmegaConf and PyYAML complain about is said in one line, in the user's words."""

from __future__ import annotations

import pytest
from tests.conftest import Shell

GRAMMAR = [
    (["lora.rank=4,8"], ["lora.rank=4,8", "did you forget -m?", "lora.rank=[4,8]"]),
    (["-m", "lora.rank=4,", "8"], ["lora.rank=4,:", "after the comma"]),
    (["-m", "seed", "=", "3"], ["seed:", "without spaces around ="]),
    (["-m", "model={a:1"], ["{ and } do not match"]),
    (["plan", "dataset.path=/a (b).jsonl"], ['dataset.path="/a (b).jsonl"', "quotes"]),
    (["plan", "dataset.path=a=b"], ['dataset.path="a=b"', "quotes"]),
    (["--cfg", "job", "lora.rnk=4"], ["did you mean lora.rank"]),
    (["--cfg", "job", "lora.rank=[4"], ["do not match"]),
    (["--cfg", "jo"], ["'jo'", "'job'"]),
    (["-m", "lora.rank=4", "--wrong"], ["--wrong", "--help"]),
]
FILES = [
    ("model/x", b"name: x\n\tpath: y\n", ["conf/model/x.yaml, line 2", "not tabs"]),
    ("model/x", b"a: 1\na: 2\n", ["conf/model/x.yaml, line 2", "duplicate key a"]),
    ("model/x", b"a: [1\nb: 2\n", ["conf/model/x.yaml, line 2", "is not YAML"]),
    ("model/x", b"name: \xff\xfe\n", ["conf/model/x.yaml", "save it as UTF-8"]),
    ("experiment/x", b"# @package _global_\na: {b: 1\n", ["conf/experiment/x.yaml, line 3"]),
    ("experiment/x", b"treatments: {lora.rank: [4]}\n", ["experiment=x", "# @package _global_"]),
    ("experiment/x", b"seed: 3\nlora: {rank: 4}\n", ["experiment=x", "# @package _global_"]),
    ("experiment/x", b"# @package global\nseed: 3\n", ["experiment=x", "# @package _global_"]),
    ("experiment/x", b"# @package _global_\nsed: 3\n", ["sed=3", "did you mean seed"]),
]


def refused(shell: Shell, *words: str) -> str:
    before = shell.files()
    done = shell(*words)
    assert (done.status, done.out, shell.files()) == (2, "", before)
    assert done.err.startswith("mosweep: ") and done.err.count("\n") == 1, done.err
    return done.err


@pytest.mark.parametrize(("words", "said"), GRAMMAR, ids=lambda value: " ".join(value))
def test_overrides(shell: Shell, words: list[str], said: list[str]) -> None:
    err = refused(shell, *words)
    assert all(word in err for word in said), err


@pytest.mark.parametrize(("file", "content", "said"), FILES)
def test_files(shell: Shell, file: str, content: bytes, said: list[str]) -> None:
    path = shell.folder / "conf" / f"{file}.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for words in (["plan"], ["-m"]):
        err = refused(shell, *words, file.replace("/", "="), "backend=dummy")
        assert all(word in err for word in said), err
