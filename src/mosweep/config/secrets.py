"""Keeps secrets out of configurations: Hydra writes overrides to disk, so one that looks like a
secret is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mosweep.core.errors import ConfigError

__all__ = ["find_secrets", "looks_secret", "masked", "refuse_secrets"]

_SECRET_KEY = re.compile(
    r"(?:^|[._-])(?:api_?key|apikey|secret(?:_?key)?|password|passwd|passphrase|credentials?|bearer|auth(?:_?token)?|(?:access|private|signing)_?key|(?:api|auth|access|hf|hub|bearer|refresh|session|bot|wandb|github)_?token"
    # a tokenizer's special tokens are no secrets
    r"|(?<!(?:eos|bos|pad|unk|sep|cls|eot|eom)_)(?<!(?:mask|stop)_)token)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(?:\bsk-[\w-]{16,}|\bsk_(?:live|test)_\w{10,}|\bhf_\w{20,}|\btml-[\w-]{16,}|\bgh[pousr]_\w{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}"
    r"|\bAIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]+@)"
)


def looks_secret(key: str, value: str) -> bool:
    """Whether an override ``key=value`` seems to carry a secret, by its key's last word or by its
    value's shape.
    """
    return (
        bool(_SECRET_KEY.search(key)) and value.strip("'\" ").lower() not in ("", "null")
    ) or bool(_SECRET_VALUE.search(value))


#: ``key: value`` in YAML or JSON, ``key=value`` elsewhere. Numbers, sections and what is not given
#: are no secrets.
_PAIR = re.compile(
    r"""(?<![\w.-])([A-Za-z_][\w.-]*)["']?\s*[:=]\s*["']?"""
    r"""(?!(?:null|none|true|false|~|[-+\d.e]+)(?![^\s"',{}\[\]]))([^\s"',{}\[\]]+)""",
    re.IGNORECASE,
)


def find_secrets(text: str, *, keys: bool) -> list[str]:
    """What in ``text`` looks like a secret, as ``line 3 (api_key)``, never the secret itself.
    ``keys``: also by what it is called.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        names = (
            [name for name, _ in _PAIR.findall(line) if _SECRET_KEY.search(name)] if keys else []
        )
        if names or _SECRET_VALUE.search(line):
            found.append(f"line {number}" + (f" ({names[0]})" if names else ""))
    return found


def masked(value: Any, key: str = "") -> Any:
    """Plain data with everything that looks like a secret replaced: for what leaves this
    machine.
    """
    if isinstance(value, Mapping):
        return {name: masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, key) for item in value]
    return "(looks like a secret)" if isinstance(value, str) and looks_secret(key, value) else value


def refuse_secrets(arguments: Iterable[str]) -> None:
    """Raise ``ConfigError``, without repeating the value, if an argument seems to carry a
    secret.
    """
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.lstrip("+~")
        if equals and looks_secret(key, value):
            problem = (
                "looks like a secret; secrets belong in the environment (OPENAI_API_KEY=…), "
                "never in a configuration"
            )
            raise ConfigError(key, "…", problem)
        if not equals and _SECRET_VALUE.search(argument):
            raise ConfigError(
                "argument",
                "…",
                "looks like a secret; secrets belong in the environment, never on the command line",
            )
