"""Every Python example in docs/ runs, as a file of its own; the site is built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mosweep.core.paths import shipped
from mosweep.design.application import planned
from mosweep.workflow.atoms import Atom

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OPENAI = ("backend=openai", "model=gpt-4.1-mini")
TINKER = ("backend=tinker", "model=qwen3-8b")
#: A change of each key of a backend or an evaluator, and what has to stand beside it.
CHANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "torchtune": {
        "backend.recipe": ("backend.recipe=other",),
        "backend.config": ("backend.config=own.yaml",),
        "backend.python": ("backend.python=/usr/bin/python3",),
        "backend.device": ("backend.device=cuda",),
        "backend.merged": ("backend.merged=false",),
        "backend.environment": ("backend.environment={A: b}",),
    },
    "tinker": {
        "backend.method": ("backend.method=dpo", *TINKER),
        "backend.beta": ("backend.beta=0.3", *TINKER, "backend.method=dpo"),
        "backend.base_url": ("backend.base_url=http://127.0.0.1:1", *TINKER),
        "backend.max_concurrent": ("backend.max_concurrent=3", *TINKER),
        "backend.patience_min": ("backend.patience_min=3", *TINKER),
    },
    "openai": {
        "backend.learning_rate_multiplier": ("backend.learning_rate_multiplier=3", *OPENAI),
        "backend.method": ("backend.method=dpo", *OPENAI),
        "backend.beta": ("backend.beta=0.3", *OPENAI, "backend.method=dpo"),
        "backend.suffix": ("backend.suffix=x", *OPENAI),
        "backend.max_concurrent": ("backend.max_concurrent=3", *OPENAI),
        "backend.poll_s": ("backend.poll_s=3", *OPENAI),
        "backend.patience_min": ("backend.patience_min=3", *OPENAI),
    },
    "dummy": {
        key: (change, "backend=dummy")
        for key, change in {
            "backend.delay_s": "backend.delay_s=3",
            "backend.fail": "backend.fail=raise",
            "backend.item_sd": "backend.item_sd=0.3",
            "backend.seed_sd": "backend.seed_sd=0.3",
            "eval.items": "eval.items=3",
        }.items()
    },
}
PREFERENCE = (
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "A"}],'
    ' "rejected": "b"}\n'
)
EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, code in enumerate(
        re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example(code: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "MOSWEEP_HOME"}
    command = [sys.executable, "-W", "error", "example.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return folder


def test_the_site_has_the_reference(site: Path) -> None:
    keys = (site / "reference" / "configuration.html").read_text()
    for key in ("lora.rank", "backend.use_recommended_lr", "hydra.launcher.wait", "mem_gb"):
        assert f"<code>{key}</code>" in keys
    assert "mosweep analyze" in (site / "reference" / "commands.html").read_text()
    api = (site / "reference" / "python.html").read_text()
    assert (Atom.__doc__ or "?").splitlines()[0] in api


@pytest.mark.parametrize(
    ("choice", "key"), [(choice, key) for choice, keys in CHANGES.items() for key in keys]
)
def test_the_reference_says_whether_a_key_counts(
    choice: str, key: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOSWEEP_HOME", str(tmp_path / "home"))
    (tmp_path / "own.jsonl").write_text(PREFERENCE * 40)
    recipe = (shipped("recipes") / "torchtune" / "tiny.yaml").read_text()
    (tmp_path / "own.yaml").write_text(recipe.replace("lr: 3.0e-3", "lr: 1.0e-3"))
    change, *beside = CHANGES[choice][key]
    beside.append("dataset.path=own.jsonl")
    changed = {stage.key for stage in planned([change, *beside])[0][0].stages}
    plain = {stage.key for stage in planned(beside)[0][0].stages}
    text = (site / "reference" / "configuration.html").read_text()
    section = text.split(f'id="{key.partition(".")[0]}{choice}"')[1]
    cells = section.split(f"<code>{key}</code>")[1].split("<td>")
    assert cells[3].startswith("yes" if changed != plain else "no")


def test_the_site_loads_nothing_from_the_network(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//"""
        r"""|<link[^>]*rel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*href=["']?(?:https?:)?//"""
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text(), sheet
