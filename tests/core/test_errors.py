from __future__ import annotations

import copy
import pickle

import pytest

from mosweep.core import errors
from mosweep.core.errors import (
    ClaimLost,
    ConfigError,
    CorruptRecord,
    MissingExtra,
    MosweepError,
    StageError,
    StoreError,
    UserError,
    choices,
    near_misses,
)

EXAMPLES = [
    (MosweepError("m"), "m", Exception),
    (UserError("no sweep here"), "no sweep here", ValueError),
    (
        ConfigError("lora.rank", "abc", "expected a whole number"),
        "lora.rank=abc: expected a whole number",
        ValueError,
    ),
    (ConfigError("models", {"a": [1]}, "no"), "models={'a': [1]}: no", UserError),
    (StageError("it failed"), "it failed", RuntimeError),
    (StageError("it failed", "/logs/a.txt"), "it failed (log: /logs/a.txt)", RuntimeError),
    (StoreError("full"), "full", OSError),
    (CorruptRecord("torn"), "torn", StoreError),
    (ClaimLost("taken over"), "taken over", StoreError),
    (
        MissingExtra("torch", "torchtune", "training"),
        "training needs torch: pip install 'mosweep[torchtune]'",
        ImportError,
    ),
]


@pytest.mark.parametrize(("error", "text", "base"), EXAMPLES)
def test_text_and_base(error: MosweepError, text: str, base: type[BaseException]) -> None:
    assert str(error) == text
    assert isinstance(error, base)
    assert isinstance(error, MosweepError)


@pytest.mark.parametrize(("error", "text", "base"), EXAMPLES)
def test_errors_cross_process_boundaries_whole(
    error: MosweepError, text: str, base: type[BaseException]
) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == text
        assert vars(again) == vars(error)


def test_every_error_has_an_example() -> None:
    defined = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert defined == {type(error).__name__ for error, *_ in EXAMPLES}


def test_a_long_value_is_cut() -> None:
    text = str(ConfigError("x", "y" * 1000, "too long"))
    assert len(text) < 120
    assert "…" in text
    assert "y" * 80 in str(ConfigError("x", "y" * 80, "fits"))


def test_choices() -> None:
    assert choices("tinny", ["tiny", "large"]) == "did you mean tiny? valid: large, tiny"
    assert choices("zzz", ["b", "a"]) == "valid: a, b"
    assert choices("zzz", []) == "none are known"
    many = [f"m{index:02}" for index in range(40)]
    assert choices("zzz", many).endswith("m10, m11, … (40 in all)")
    assert choices("zzz", many[:12]) == "valid: " + ", ".join(many[:12])


def test_near_misses_are_nearest_first() -> None:
    assert near_misses("ranc", ["alpha", "rank", "ranch"])[0] in ("ranch", "rank")
    assert near_misses("rank", ["dropout", "ranks", "rank"])[0] == "rank"
    assert near_misses("xyz", ["rank"]) == []
