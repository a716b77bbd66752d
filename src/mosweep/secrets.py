"""Keeps secrets out of configurations: Hydra writes overrides to disk, so one that looks like a secret is refused at once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mosweep.core.errors import ConfigError

__all__ = ["looks_secret", "refuse_secrets"]

_SECRET_KEY = re.compile(
    r"(?:^|[._-])(?:api_?key|apikey|secret(?:_?key)?|password|passwd|passphrase|credentials?|bearer|auth(?:_?token)?|(?:access|private|signing)_?key|(?:api|auth|access|hf|hub|bearer|refresh|session|bot|wandb|github)_?token"
    r"|(?<!(?:eos|bos|pad|unk|sep|cls|eot|eom)_)(?<!(?:mask|stop)_)token)$",  # a tokenizer's special tokens are no secrets
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(?:\bsk-[\w-]{16,}|\bsk_(?:live|test)_\w{10,}|\bhf_\w{20,}|\btml-[\w-]{16,}|\bgh[pousr]_\w{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}"
    r"|\bAIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]+@)"
)


def looks_secret(key: str, value: str) -> bool:
    """Whether an override ``key=value`` seems to carry a secret, by its key's last word or by its value's shape."""
    return (bool(_SECRET_KEY.search(key)) and value.strip("'\" ").lower() not in ("", "null")) or bool(_SECRET_VALUE.search(value))


def refuse_secrets(arguments: Iterable[str]) -> None:
    """Raise ``ConfigError``, without repeating the value, if an argument seems to carry a secret."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.lstrip("+~")
        if equals and looks_secret(key, value):
            problem = "looks like a secret; secrets belong in the environment (OPENAI_API_KEY=…), never in a configuration"
            raise ConfigError(key, "…", problem)
        if not equals and _SECRET_VALUE.search(argument):
            raise ConfigError("argument", "…", "looks like a secret; secrets belong in the environment, never on the command line")
