"""Data stages: build a data set with the task's ``data.py``, or import it from files.

Trials with the same data set share one stage. It writes the folder ``data`` with ``train.jsonl``
(OpenAI's chat format) and any other files of the data set.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mosweep.core import fingerprint
from mosweep.core.digests import content_digest
from mosweep.core.errors import ConfigError, StageError, UserError, choices
from mosweep.core.facts import DataFacts, DatasetRef
from mosweep.core.fingerprint import unkeyed
from mosweep.core.paths import cached_here, own_and_shipped
from mosweep.core.task_code import check_code, code_digest, covered_files
from mosweep.core.task_modules import task_modules
from mosweep.core.types import Stage
from mosweep.core.work import DATA, Artifact, Context, Kind, Work
from mosweep.stages.base import TrialConfig
from mosweep.stages.datafiles import TRAIN, bring, first_problem, training_file, write_training

__all__ = [
    "TRAIN",
    "BuildData",
    "ImportData",
    "check_rows",
    "data_folder",
    "data_stage",
    "dataset_ref",
    "task_code",
    "task_folder",
    "training_content",
]


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
        try:
            await asyncio.to_thread(lambda: write_training(training_file(out), out))
        except UserError as error:
            # The file is in a folder of this stage, which nobody knows.
            left = str(error).replace(f"{out}/", "").replace(str(out), "it")
            raise StageError(f"{origin} left {left}") from error
        return await asyncio.to_thread(_described, self.dataset, out, self.task)


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
        out = context.out / "data"
        await asyncio.to_thread(bring, Path(self.path), out)
        return await asyncio.to_thread(_described, self.dataset, out)


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
        _refuse(trial, first_problem(Path(work.path), work.digest, None))
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


def check_rows(
    trial: TrialConfig, stage: Stage, refuses: Callable[..., str | None], *settings: Any
) -> None:
    """Raise ``ConfigError`` for a row of the user's own files that a backend does not take.

    ``stage`` is the trial's data stage. ``refuses(row, *settings)`` says why, or ``None``.
    """
    if isinstance(work := stage.work, ImportData):
        _refuse(trial, first_problem(Path(work.path), work.digest, refuses, *settings))


def _refuse(trial: TrialConfig, problem: str | None) -> None:
    dataset = trial.config.dataset
    if problem is not None:
        key = "dataset.path" if dataset.path else "dataset"
        raise ConfigError(key, dataset.path or dataset.name, problem)


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


_content_digest = cached_here(content_digest)


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


def _described(name: str, folder: Path, task: str | None = None) -> dict[str, Any]:
    """The facts of the data set in ``folder``, whose training rows are checked."""
    files = {path.name: _rows(path) for path in sorted(folder.glob("*.jsonl"))}
    return DataFacts(
        name=name,
        folder="data",
        rows=files[TRAIN],
        digest=fingerprint.digest_file(folder / TRAIN),
        files=files,
        task=task,
    ).to_json()


def _rows(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for line in file if line.strip())
