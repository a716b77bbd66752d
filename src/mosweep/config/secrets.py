"""Keep secrets out of configurations.

Hydra writes overrides to disk, so an override that looks like a secret is refused at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mosweep.core.errors import ConfigError

__all__ = ["find_secrets", "looks_secret", "masked", "refuse_secrets"]

_SECRET_KEY = re.compile(
    r"(?:^|[._-])(?:api_?key|apikey|secret(?:_?key)?|password|passwd|passphrase|credentials?"
    r"|bearer|auth(?:_?token)?|(?:access|private|signing)_?key"
    r"|(?:api|auth|access|hf|hub|bearer|refresh|session|bot|wandb|github)_?token"
    # A tokenizer's special tokens are not secrets.
    r"|(?<!(?:eos|bos|pad|unk|sep|cls|eot|eom)_)(?<!(?:mask|stop)_)token)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"(?:\bsk-[\w-]{16,}|\bsk_(?:live|test)_\w{10,}|\bhf_\w{20,}|\btml-[\w-]{16,}"
    r"|\bgh[pousr]_\w{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}"
    r"|\bAIza[\w-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]+@)"
)


#: The arguments of the user's own tasks, which may have any name: a password can be a treatment.
_FREE_KEY = re.compile(r"(?:^|\.)task_args\.")


def looks_secret(key: str, value: str) -> bool:
    """Whether an override ``key=value`` seems to contain a secret.

    It is judged by the last word of the key and by the form of the value. Arguments of tasks are
    judged by the value alone.
    """
    return (
        not _FREE_KEY.search(key)
        and bool(_SECRET_KEY.search(key))
        and value.strip("'\" ").lower() not in ("", "null")
    ) or bool(_SECRET_VALUE.search(value))


#: ``key: value`` in YAML or JSON, ``key=value`` elsewhere. Numbers, sections and missing values are
#: not secrets.
_PAIR = re.compile(
    r"""(?<![\w.-])([A-Za-z_][\w.-]*)["']?\s*[:=]\s*["']?"""
    r"""(?!(?:null|none|true|false|~|[-+\d.e]+)(?![^\s"',{}\[\]]))([^\s"',{}\[\]]+)""",
    re.IGNORECASE,
)


def find_secrets(text: str, *, keys: bool, free: Collection[str] = ()) -> list[str]:
    """The places in ``text`` that look like a secret, such as ``line 3 (api_key)``.

    The secret itself is never included. ``keys``: also judge a value by its key, unless this is one
    of ``free``, the arguments of the user's tasks.
    """
    places = []
    for number, line in enumerate(text.splitlines(), 1):
        names = (
            [
                name
                for name, _ in _PAIR.findall(line)
                if _SECRET_KEY.search(name) and name not in free and not _FREE_KEY.search(name)
            ]
            if keys
            else []
        )
        if names or _SECRET_VALUE.search(line):
            places.append(f"line {number}" + (f" ({names[0]})" if names else ""))
    return places


def masked(value: Any, key: str = "") -> Any:
    """The data with everything that looks like a secret replaced, before it leaves this machine."""
    if isinstance(value, Mapping):
        return {
            name: masked(item, f"{key}.{name}" if key else str(name))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(item, key) for item in value]
    return "(looks like a secret)" if isinstance(value, str) and looks_secret(key, value) else value


def refuse_secrets(arguments: Iterable[str]) -> None:
    """Raise ``ConfigError`` if an argument seems to contain a secret. It never shows the value."""
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
