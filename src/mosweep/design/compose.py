"""Compose once, then override: fast configurations for thousands of trials.

Hydra composes every trial from the defaults list, which takes tens of milliseconds. Here that
happens once per distinct set of *group* choices, and *value* overrides are applied to copies. The
result equals Hydra's own; a property test compares them. There are three paths, each the fallback
of the one before:

1. Plain ``key=scalar`` overrides of untyped leaves that no interpolation reads: copy the mappings
   above the leaf and set it.
2. Any other value override: Hydra's own function applies it to a deep copy of the composed
   configuration, which is then resolved.
3. Configurations that read ``${hydra:…}`` and the like: Hydra composes the trial from scratch.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mosweep.core.errors import ConfigError, UserError, choices
from mosweep.design.interpolations import decode_numbers

__all__ = ["Composer"]

_PLAIN = re.compile(
    r"(?P<key>[A-Za-z_][\w.]*)=(?P<value>[A-Za-z_]\w*|-?(?:0|[1-9]\d*)|-?(?:0|[1-9]\d*)\.\d+)",
    re.ASCII,
)
#: Words that Hydra's grammar does not parse as text.
_RESERVED_WORDS = {"true", "false", "null", "nan", "inf", "none"}
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_ENVIRONMENT = re.compile(r"oc\.env:[A-Za-z_]\w*(,[^$,{}]*)?")


@dataclass(frozen=True)
class _Value:
    """One override of a value.

    ``parsed`` is Hydra's own object, or ``None`` for a plain ``key=scalar``.
    """

    key: str
    text: str
    value: Any
    parsed: Override | None = None


@dataclass
class _Base:
    """The configuration of one set of group choices.

    ``plain`` is ``config`` resolved, or ``None`` if it resolves only with value overrides.
    """

    config: DictConfig
    plain: dict[str, Any] | None
    read_keys: frozenset[str]
    needs_hydra: bool
    open_keys: dict[str, bool] = field(default_factory=dict)
    sections: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def with_values(self, values: Sequence[_Value]) -> dict[str, Any]:
        """``plain`` with leaves set.

        Trials that set the same leaves of a section to the same values share that section.
        """
        assert self.plain is not None
        result = dict(self.plain)
        by_section: dict[str, list[_Value]] = {}
        for value in values:
            by_section.setdefault(value.key.partition(".")[0], []).append(value)
        for name, changes in by_section.items():
            texts = tuple(value.text for value in changes)
            if texts not in self.sections:
                section = {name: self.plain[name]}
                for value in changes:
                    _set(section, {name: self.plain[name]}, value.key.split("."), value.value)
                self.sections[texts] = section[name]
            result[name] = self.sections[texts]
        return result


class Composer:
    """Composes the configurations of a sweep's trials.

    ``loader`` and ``master`` are Hydra's configuration loader and its configuration of the command.
    """

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create()
        self._parsed: dict[str, _Value | None] = {}
        self._groups: dict[str, bool] = {}
        self._bases: dict[tuple[str, ...], _Base] = {}

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The trial's resolved configuration, without ``hydra``, as plain data.

        Trials share the sections that their overrides do not touch: never write to the result.
        Raises ``ConfigError`` for a key that does not exist, and Hydra's exceptions otherwise.
        """
        choices_made, values = [], []
        for text in overrides:
            value = self._parse(text)
            if value is None:
                choices_made.append(text)
            else:
                values.append(value)
        base = self._base(tuple(choices_made))
        if base.needs_hydra:
            return _resolved(
                _without_hydra(self._loader.load_sweep_config(self._master, list(overrides)))
            )
        if base.plain is not None and all(self._is_simple(base, value) for value in values):
            return base.with_values(values)
        config = copy.deepcopy(base.config)
        OmegaConf.copy_cache(from_config=self._master, to_config=config)
        for value in values:
            override = value.parsed or self._parser.parse_override(value.text)
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], config)
            except ConfigCompositionException as error:
                raise _explained(value, base.config, error) from error
        try:
            return _resolved(config)
        except OmegaConfBaseException as error:
            raise ConfigError(str(error.full_key), "…", str(error).splitlines()[0]) from error

    def _parse(self, text: str) -> _Value | None:
        """The override of a value, or ``None`` for a group choice. Each text is parsed once."""
        if text not in self._parsed:
            self._parsed[text] = self._parse_text(text)
        return self._parsed[text]

    def _parse_text(self, text: str) -> _Value | None:
        plain = _PLAIN.fullmatch(text)
        if plain and plain["value"].lower() not in _RESERVED_WORDS:
            key, word = plain["key"], plain["value"]
            if self._is_group(key):
                return None
            number = word.lstrip("-").replace(".", "", 1).isdigit()
            return _Value(
                key, text, (float(word) if "." in word else int(word)) if number else word
            )
        parsed = self._parser.parse_override(text)
        if parsed.package is not None or (
            self._is_group(parsed.key_or_group) and not isinstance(parsed.value(), dict)
        ):
            return None
        return _Value(parsed.key_or_group, text, None, parsed)

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            self._groups[key] = self._loader.repository.group_exists(key)
        return self._groups[key]

    def _base(self, chosen: tuple[str, ...]) -> _Base:
        if chosen not in self._bases:
            try:
                config = self._loader.load_sweep_config(self._master, list(chosen))
            except ValueError as error:  # A group choice that is not a name, such as lora=4.
                raise UserError(f"{' '.join(chosen)}: {error}") from error
            job = _without_hydra(config)
            reads, needs_hydra = _interpolations(job)
            plain: dict[str, Any] | None = None
            if not needs_hydra:
                with contextlib.suppress(OmegaConfBaseException):
                    plain = _resolved(job)
            self._bases[chosen] = _Base(job, plain, reads, needs_hydra)
        return self._bases[chosen]

    def _is_simple(self, base: _Base, value: _Value) -> bool:
        """Whether the override only sets one leaf."""
        if value.parsed is not None:
            return False
        simple = base.open_keys.get(value.key)
        if simple is None:
            simple = base.open_keys[value.key] = _is_untyped_leaf(
                base.config, value.key
            ) and not any(
                not read
                or read == value.key
                or read.startswith(f"{value.key}.")
                or value.key.startswith(f"{read}.")
                for read in base.read_keys
            )
        return simple


def _set(result: dict[str, Any], base: Mapping[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a leaf of ``result``, first copying the mappings above it that ``base`` still shares."""
    *parents, leaf = path
    for name in parents:
        shared = base.get(name) if isinstance(base, Mapping) else None
        if result[name] is shared:
            result[name] = dict(shared)
        result, base = result[name], shared if shared is not None else {}
    result[leaf] = value


def _is_untyped_leaf(config: DictConfig, key: str) -> bool:
    node: Any = config
    for name in key.split("."):
        if (
            not isinstance(node, DictConfig)
            or node._is_none()
            or node._is_missing()
            or node._is_interpolation()
        ):
            return False
        node = node._get_node(name, validate_access=False)
        if node is None:
            return False
    return type(node) is AnyNode and not node._get_flag("readonly")


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        config.pop("hydra", None)
    return config


def _resolved(config: DictConfig) -> dict[str, Any]:
    decode_numbers(config)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _interpolations(config: DictConfig) -> tuple[frozenset[str], bool]:
    """The keys that interpolations read, and whether any of them needs Hydra to resolve.

    An interpolation that is neither a plain absolute reference nor an environment look-up may read
    anything. The key ``""`` stands for that.
    """
    keys: set[str] = set()
    needs_hydra = False

    def visit(node: Any) -> None:
        nonlocal needs_hydra
        if node is None:
            return
        if node._is_interpolation():
            text = str(node._value())
            needs_hydra = needs_hydra or "hydra" in text
            for inner in re.findall(r"\$\{([^${}]*)\}", text):
                if _REFERENCE.fullmatch(inner):
                    keys.add(inner)
                elif not _ENVIRONMENT.fullmatch(inner):
                    keys.add("")
            if text.count("${") != len(re.findall(r"\$\{[^${}]*\}", text)):
                keys.add("")
        elif isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            for name in node:
                visit(node._get_node(name))
        elif isinstance(node, ListConfig) and not node._is_none() and not node._is_missing():
            for index in range(len(node)):
                visit(node._get_node(index))

    visit(config)
    return frozenset(keys), needs_hydra


def _explained(value: _Value, config: DictConfig, error: ConfigCompositionException) -> Exception:
    """The error in mosweep's form. For a key that does not exist it lists the valid ones."""
    if "Could not override" not in str(error):
        cause = error.__cause__ or error.__context__ or error
        return ConfigError(value.key, value.text.partition("=")[2], str(cause).splitlines()[0])
    return missing_key(value.key, value.text.partition("=")[2], config)


def missing_key(key: str, value: str, config: DictConfig) -> ConfigError:
    """The error for an override of ``key``, which ``config`` does not have."""
    node: Any = config
    parents: list[str] = []
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            break
        node = node[name]
        parents.append(name)
    if not isinstance(node, DictConfig):
        return ConfigError(key, value, f"{'.'.join(parents)} is a value, not a section")
    valid = [".".join([*parents, str(name)]) for name in node if name != "hydra"]
    wrong = ".".join(key.split(".")[: len(parents) + 1])
    return ConfigError(key, value, f"no such key; {choices(wrong, valid)}")
