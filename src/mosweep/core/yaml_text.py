"""YAML, with the numbers of YAML 1.2: ``1e-3`` is a number, as in Hydra's files."""

from __future__ import annotations

import functools
import re
from typing import Any

__all__ = ["dump_yaml", "load_yaml", "parse_number", "yaml_loader"]

_INTEGER = re.compile(r"[-+]?(?:0|[1-9]\d*)", re.ASCII)
#: Numbers with a point or an exponent. PyYAML, which reads YAML 1.1, takes ``1e-3`` for text.
_FLOAT = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?$", re.ASCII)
_TAG = "tag:yaml.org,2002:float"


def parse_number(text: str) -> int | float | None:
    """The number that ``text`` is, or ``None``."""
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else None


def load_yaml(text: str | bytes) -> Any:
    """The data of a YAML document. Raises ``yaml.YAMLError``."""
    import yaml

    return yaml.load(text, yaml_loader())


def dump_yaml(data: Any) -> str:
    """The YAML document that ``load_yaml`` reads as ``data``, with the keys in their order."""
    import yaml

    text: str = yaml.dump(
        data,
        Dumper=_dumper(),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=120,
    )
    return text


@functools.cache
def yaml_loader() -> Any:
    """The class that ``load_yaml`` reads with: PyYAML's safe one, in C if that was built."""
    import yaml

    return _with_numbers(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)


@functools.cache
def _dumper() -> Any:
    import yaml

    return _with_numbers(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper)


def _with_numbers(base: Any) -> Any:
    """A subclass of a loader or dumper of PyYAML with the numbers of YAML 1.2."""

    class Numbers(base):  # type: ignore[misc]
        pass

    Numbers.add_implicit_resolver(_TAG, _FLOAT, list("-+0123456789."))
    return Numbers
