"""Pages of the reference that are made from the code.

``reference/configuration.md`` comes from the schemas, ``reference/commands.md`` from the argument
parsers. ``mkdocs.yml`` names this file as a hook.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from mosweep.cli.main import VERBS, run_verb  # noqa: E402
from mosweep.config.choices import choices_of  # noqa: E402
from mosweep.config.groups import Config  # noqa: E402
from mosweep.config.reference import Option, options  # noqa: E402
from mosweep.config.resources import Request  # noqa: E402
from mosweep.core.schema import TARGET, load_target  # noqa: E402
from mosweep.core.work import Resources  # noqa: E402

#: Keys of the trial's configuration that are described by a section of their own.
_ELSEWHERE = ("backend", "eval", "resources", "native", "transforms")
_SECTIONS = {
    "": "Keys without a group",
    "model": "the base model",
    "dataset": "the training data",
    "task": "the task",
    "lora": "the adapter",
    "optim": "the optimisation",
    "loop": "the loop",
    "experiment": "the sweep's name",
    "tracking": "MLflow and W&B",
    "store": "the store",
    "budget": "budgets",
    "contamination": "contamination",
}
_HEAD = """\
# Configuration

Every key that mosweep knows, with its type, its default and its meaning. Set a key on the command
line (`lora.rank=16`), as a factor (`lora.rank=4,16`) or in a file under `conf/`.
`mosweep --cfg job` prints all of them with the values that a command would use.

**In the key**: whether another value makes another [stage](words.md#stage). A key that is not in a
stage's key can be changed at any time; what has run stays valid. `null` means: not given.
"""
_AFTER = """\
Native sections are open: they take every key of the library that a backend or evaluator works
with. A key that does not exist there is an error.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the site."""
    for name, write in {"configuration": configuration, "commands": commands}.items():
        files.append(File.generated(config, f"reference/{name}.md", content=write()))
    return files


def configuration() -> str:
    """The page of all keys. ``LookupError`` for one without a meaning."""
    groups: dict[str, list[Option]] = {name: [] for name in _SECTIONS}
    for option in options(Config):
        section, dot, _ = option.key.partition(".")
        if option.key not in _ELSEWHERE:
            groups[section if dot else ""].append(option)
    parts = [_HEAD, _table(_SECTIONS[""], groups.pop("")), _AFTER]
    parts += [_table(f"`{name}`: {_SECTIONS[name]}", groups[name]) for name in groups]
    parts.append(_native())
    for group in ("backend", "eval"):
        parts += [_choice(group, file) for file in sorted((ROOT / "conf" / group).glob("*.yaml"))]
    parts += [
        _table("`resources`: what stages ask for", options(Request, "resources", keyed=False)),
        "Each section of `resources` holds these keys:\n",
        _table("Keys of `resources` sections", options(Resources, keyed=False), level=3),
        *(_launcher(file) for file in sorted((ROOT / "conf/hydra/launcher").glob("*.yaml"))),
    ]
    return "\n".join(parts)


def _native() -> str:
    """The native sections of backends and evaluators."""
    lines = ["## Native sections\n", "| section | meaning |", "|---|---|"]
    for group in ("backend", "eval"):
        for part in choices_of(group).values():
            if part.section is not None:
                lines.append(f"| `{part.section}.…` | {_code(part.section_help)} |")
    return "\n".join(lines) + "\n"


def _choice(group: str, file: Path) -> str:
    """The keys of one choice of a group, by the class that its file names."""
    data = yaml.safe_load(file.read_text())
    cls = load_target(data.get(group, data)[TARGET], str(file))
    return _table(f"`{group}={file.stem}`", options(cls, group))


def _launcher(file: Path) -> str:
    cls = load_target(yaml.safe_load(file.read_text())[TARGET], str(file))
    rows = options(cls, "hydra.launcher", keyed=False)
    return _table(f"`hydra/launcher={file.stem}`", rows)


def _table(title: str, rows: list[Option], level: int = 2) -> str:
    unknown = [row.key for row in rows if not row.meaning]
    if unknown:
        raise LookupError(f"no meaning below the fields of {', '.join(unknown)}")
    lines = [
        f"{'#' * level} {title}\n",
        "| key | type | default | in the key | meaning |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        kind = f"{row.type}, {row.bounds}" if row.bounds else row.type
        cells = (
            f"`{row.key}`",
            kind,
            f"`{row.default}`",
            "yes" if row.keyed else "no",
            row.meaning,
        )
        shown = (_code(cell).replace("|", "\\|") for cell in cells)
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Docstring markup as Markdown; what could be taken for HTML, outside of code, is escaped."""
    parts = text.replace("``", "`").split("`")
    return "`".join(part if n % 2 else part.replace("<", "&lt;") for n, part in enumerate(parts))


def commands() -> str:
    """The page of all verbs, from their argument parsers."""
    parts = [
        "# Commands\n",
        "A command is a verb (`mosweep plan …`) or a list of overrides: `mosweep OVERRIDES` runs "
        "one trial, `mosweep -m OVERRIDES` a sweep. `SWEEP` is a sweep's folder, or its name under "
        "`multirun/`; without one, a verb takes the latest sweep.\n",
        "Exit status: 0 all trials succeeded; 1 a trial failed; 2 the command cannot work, and "
        "nothing was started; 130 interrupted.\n",
    ]
    for verb, text in VERBS.items():
        if verb == "progress":
            continue
        parts.append(f"## mosweep {verb}\n\n{text[0].upper()}{text[1:]}.\n")
        parts += [f"```text\n{text}```\n" for text in _help(verb)]
    return "\n".join(parts)


def _help(verb: str) -> Iterator[str]:
    """What ``--help`` prints of a verb and of its actions."""
    parser = _parser(lambda: run_verb(verb, []))
    yield parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield inner.format_help()


def _parser(run: Callable[[], Any]) -> argparse.ArgumentParser:
    """The parser that ``run`` reads its arguments with."""
    made: list[argparse.ArgumentParser] = []

    class Found(Exception):
        pass

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        made.append(self)
        raise Found

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(argparse.ArgumentParser, "parse_intermixed_args", stop),
        mock.patch.dict("os.environ", {"COLUMNS": "90"}),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(Found),
    ):
        run()
    return made[0]
