"""Data stages: build a data set with the task's ``data.py``, or import it from files.

Trials with the same data set share one stage. It writes the folder ``data`` with ``train.jsonl``
(OpenAI's chat format) and any other files of the data set.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mosweep.core import fingerprint
from mosweep.core.digests import file_digest, tree_digest
from mosweep.core.errors import ConfigError, StageError, choices
from mosweep.core.facts import DataFacts, DatasetRef
from mosweep.core.fingerprint import unkeyed
from mosweep.core.paths import cached_here, own_and_shipped
from mosweep.core.task_code import code_digest, covered_files
from mosweep.core.task_modules import task_modules
from mosweep.core.types import Stage
from mosweep.core.work import DATA, Artifact, Context, Kind, Work
from mosweep.stages.base import TrialConfig

__all__ = [
    "BuildData",
    "ImportData",
    "check_code",
    "data_folder",
    "data_stage",
    "dataset_ref",
    "task_code",
    "task_folder",
    "training_content",
]

TRAIN = "train.jsonl"


@dataclass(frozen=True)
class BuildData(Work):
    """Calls ``build(dataset, folder)`` of a task's ``data.py``.

    Its key has the digest of the code, not the folder.
    """

    task: str
    dataset: str
    code: str
    folder: str = field(metadata=unkeyed)

    kind: ClassVar[Kind] = DATA
    version: ClassVar[int] = 1

    def sources(self) -> tuple[Path, Mapping[str, str]]:
        """The files of the task."""
        return Path(self.folder), task_code(Path(self.folder) / "data.py")

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Write the folder ``data``, and return its facts."""
        path = Path(self.folder) / "data.py"
        check_code(covered_files(path), self.code, str(path))
        out = context.out / "data"
        out.mkdir()
        with task_modules(path.parent) as modules:
            build = getattr(modules.load(path), "build", None)
            if build is None:
                raise StageError(f"{path} has no function build(dataset, data_dir)")
            returned = await asyncio.to_thread(build, self.dataset, out)
            if inspect.isawaitable(returned):
                await returned
        origin = f"{self.folder}/data.py: build({self.dataset!r}, …)"
        return await _described(self.dataset, out, origin, self.task)


@dataclass(frozen=True)
class ImportData(Work):
    """Copies a file or folder of the user's.

    Its key has the digest of the content, not the path.
    """

    dataset: str
    digest: str
    path: str = field(metadata=unkeyed)

    kind: ClassVar[Kind] = DATA
    version: ClassVar[int] = 1

    async def run(self, context: Context) -> Mapping[str, Any]:
        """Write the folder ``data``, and return its facts."""
        out, source = context.out / "data", Path(self.path)
        if source.is_dir():
            await asyncio.to_thread(shutil.copytree, source, out)
        else:
            out.mkdir()
            await asyncio.to_thread(
                shutil.copyfile, source, out / (TRAIN if source.suffix == ".jsonl" else source.name)
            )
        return await _described(self.dataset, out, self.path)


def data_folder(data: Artifact) -> Path:
    """The folder with the files of a data set."""
    return data.folder / DataFacts.of(data.facts).folder


def dataset_ref(data: Artifact) -> DatasetRef:
    """The reference to a data set that the stages using it record."""
    facts = DataFacts.of(data.facts)
    return DatasetRef(facts.name, facts.digest)


def training_content(data: Artifact) -> Any:
    """What a fine-tune that trains on ``train.jsonl`` depends on: name and content."""
    facts = DataFacts.of(data.facts)
    return [facts.name, facts.digest]


def data_stage(trial: TrialConfig) -> Stage:
    """The stage that provides the trial's data set."""
    config = trial.config
    name = config.dataset.name
    path = config.dataset.path or _in_data_dir(config.data_dir, name)
    work: BuildData | ImportData
    if path is not None:
        source = Path(path)
        if not source.exists() and config.data_dir and (Path(config.data_dir) / path).exists():
            source = Path(config.data_dir) / path
        if not source.exists():
            raise ConfigError("dataset.path", path, "no such file or folder")
        work = ImportData(name, _content_digest(source.resolve()), str(source.resolve()))
    else:
        folder = task_folder(config.task.name, config.tasks_dir)
        if not (folder / "data.py").exists():
            raise ConfigError(
                "dataset",
                name,
                f"the task has no data.py to build it ({folder}); give dataset.path",
            )
        valid = _names(folder / "data.py")
        if valid and name not in valid:
            raise ConfigError(
                "dataset",
                name,
                f"the task {config.task.name} builds no such data set; {choices(name, valid)}",
            )
        code = code_digest(task_code(folder / "data.py"))
        work = BuildData(config.task.name, name, code, str(folder))
    return Stage("data", work, resources=trial.resources("data", computes=False))


@cached_here
def task_folder(name: str, tasks_dir: str | None) -> Path:
    """The folder of task ``name``: in ``tasks_dir`` if given, in ``./tasks``, or shipped."""
    places = [*([Path(tasks_dir)] if tasks_dir else []), *own_and_shipped("tasks")]
    if tasks_dir and not Path(tasks_dir).is_dir():
        raise ConfigError("tasks_dir", tasks_dir, "no such folder")
    for place in places:
        if (place / name / "eval.py").exists() or (place / name / "data.py").exists():
            return (place / name).resolve()
    valid = {path.parent.name for place in places for path in place.glob("*/eval.py")}
    raise ConfigError(
        "task",
        name,
        f"no task folder of that name in {', '.join(map(str, places))}; {choices(name, valid)}",
    )


#: The files of a task's code, read once per plan.
task_code = cached_here(covered_files)


def check_code(files: Mapping[str, str] | None, digest: str, what: str) -> None:
    """Raise ``StageError`` if the code has changed since the stage was planned."""
    if code_digest(files or {}) != digest:
        raise StageError(
            f"{what} was edited since this stage was planned; run the sweep's command again"
        )


def _in_data_dir(data_dir: str | None, name: str) -> str | None:
    """The data set ``name`` in the user's ``data_dir``, if it is there."""
    if data_dir is None:
        return None
    folder = Path(data_dir)
    if not folder.is_dir():
        raise ConfigError("data_dir", data_dir, "no such folder")
    return next(
        (
            str(folder / entry)
            for entry in (name, f"{name}.jsonl", f"{name}.json")
            if (folder / entry).exists()
        ),
        None,
    )


@cached_here
def _content_digest(source: Path) -> str:
    if source.is_file():
        return file_digest(source)
    names = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
    return tree_digest(source, names)


@cached_here
def _names(data_py: Path) -> tuple[str, ...]:
    """The names in a literal ``DATASETS`` of ``data.py``, read without running the file.

    Empty if there is none.
    """
    try:
        tree = ast.parse(data_py.read_bytes())
    except SyntaxError as error:
        raise ConfigError(
            "task", data_py, f"line {error.lineno} is not Python: {error.msg}"
        ) from None
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        if any(isinstance(target, ast.Name) and target.id == "DATASETS" for target in targets):
            try:
                return tuple(map(str, ast.literal_eval(node.value)))  # type: ignore[attr-defined]
            except (ValueError, TypeError):
                return ()
    return ()


async def _described(
    name: str, folder: Path, origin: str, task: str | None = None
) -> dict[str, Any]:
    """Check the files in ``folder`` and return their facts.

    A JSON file with splits is first split into one file each.
    """
    from mosweep.datasets.jsonl import JSONLDataset

    if not (folder / TRAIN).exists():
        _split(folder, origin)
    training = await JSONLDataset.load(folder / TRAIN)
    files = {path.name: _rows(path) for path in sorted(folder.glob("*.jsonl"))}
    return DataFacts(
        name=name,
        folder="data",
        rows=len(training),
        digest=fingerprint.digest_file(folder / TRAIN),
        files=files,
        task=task,
    ).to_json()


def _rows(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip())


def _split(folder: Path, origin: str) -> None:
    """Write ``<split>.jsonl`` for every split of the one JSON file in ``folder``."""
    expected = f"expected {TRAIN}, or one JSON file with the splits"
    files = [path for path in folder.iterdir() if path.suffix == ".json"]
    if len(files) != 1:
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise StageError(f"{origin} left {names}: {expected}")
    data = json.loads(files[0].read_bytes())
    splits = data if isinstance(data, dict) else {"train": data}
    if not isinstance(splits.get("train"), list):
        raise StageError(f"{origin} left {files[0].name} without a split 'train': {expected}")
    for split, rows in splits.items():
        if isinstance(rows, list):
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
