"""Submissions to Slurm, as files. They are written before sbatch runs.

    slurm/open/<name>            exists while the submission may have jobs in Slurm
    slurm/<name>/intent.json     the stages, their order and dependencies
    slurm/<name>/stages.jsonl    the stages' specs, one line per array element
    slurm/<name>/job.sh          the script for sbatch
    slurm/<name>/answer          sbatch's output with the array's number. sbatch writes it even if
                                 the launcher dies.
    slurm/<name>/void            sbatch did not reach Slurm. If a job with this name starts later,
                                 it ends immediately.
    slurm/<name>/<i>.started     element i started: its log, time and host
    slurm/<name>/<i>.done        another job, or a launch, has done the stage of element i. Its job
                                 copies this file to <i>.ended.
    slurm/<name>/<i>.ended       element i ended: its result

The files are in the store, so that a sweep finds jobs that other sweeps submitted for its stages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mosweep.core.files import write_whole
from mosweep.launchers.slurm.arrays import Array, Place
from mosweep.launchers.slurm.sbatch import read_answer

__all__ = ["Submission", "Submissions"]

#: Files that elements write in their submission's folder.
MARKS = ("started", "done", "ended")


@dataclass
class Submission:
    """The folder of one array. ``array`` is its number in Slurm, if known."""

    folder: Path
    array: str | None = None
    _seen: dict[str, set[int]] = field(
        default_factory=lambda: {what: set() for what in MARKS}, repr=False
    )

    @cached_property
    def intent(self) -> dict[str, Any]:
        """The content of ``intent.json``.

        ``keys`` are by index; ``behind`` has the places that a key waits for; ``tries`` are earlier
        jobs.
        """
        data: dict[str, Any] = json.loads((self.folder / "intent.json").read_bytes())
        data["keys"] = {int(index): key for index, key in data["keys"].items()}
        return data

    @property
    def name(self) -> str:
        """The folder's name. The job's name in Slurm ends with it."""
        return self.folder.name

    @property
    def job_name(self) -> str:
        """The job's name in Slurm, which is unique."""
        return str(self.intent["job_name"])

    @property
    def keys(self) -> Mapping[int, str]:
        """Stage keys by index."""
        keys: Mapping[int, str] = self.intent["keys"]
        return keys

    @property
    def script(self) -> Path:
        """The script given to sbatch."""
        return self.folder / "job.sh"

    @property
    def answer(self) -> Path:
        """The output of sbatch."""
        return self.folder / "answer"

    @property
    def is_void(self) -> bool:
        """Whether it never reached Slurm."""
        return (self.folder / "void").exists()

    @property
    def age_s(self) -> float:
        """Seconds since it was created."""
        return time.time() - float(self.intent["time"])

    @property
    def foreign(self) -> bool:
        """Whether another machine submitted it. Then this one cannot see whether sbatch runs."""
        return str(self.intent["host"]) != socket.gethostname()

    def read_answer(self) -> bool:
        """Set ``array`` from the output of sbatch, if any. Returns whether sbatch is running."""
        running, number = read_answer(self.answer)
        self.array = self.array or number
        return running

    def adopt(self, array: str) -> None:
        """Store the array's number, which Slurm reported after sbatch's answer was lost."""
        self.array = array
        self.answer.write_text(array + "\n")

    def log(self, index: int) -> Path:
        """The output of element ``index`` outside of its stage."""
        return Path(self.intent["output"].replace("%A", self.array or "").replace("%a", str(index)))

    def printed(self, index: int) -> str:
        """The end of the job's output outside of its stage, including Slurm's messages."""
        texts = []
        for path in (self.log(index), self.log(index).with_suffix(".err")):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                texts.append(file.read().decode(errors="replace"))
        return "\n".join(texts)

    def new_marks(self) -> Iterator[tuple[int, str]]:
        """``(index, "started" | "done" | "ended")`` for every mark since the last call."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return
        for name in names:
            index, _, what = name.partition(".")
            if what in MARKS and int(index) not in self._seen[what]:
                self._seen[what].add(int(index))
                yield int(index), what

    def mark(self, index: int, what: str) -> dict[str, Any] | None:
        """The content of the element's mark ``what``. ``None`` if there is none."""
        try:
            data: dict[str, Any] = json.loads((self.folder / f"{index}.{what}").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return data

    def end(self, index: int) -> dict[str, Any] | None:
        """How the element's stage ended, in its own job or another. ``None`` if it has not."""
        return self.mark(index, "ended") or self.mark(index, "done")

    def reread(self, index: int) -> None:
        """Report the element's marks again. It runs again, or a mark was not readable yet."""
        for seen in self._seen.values():
            seen.discard(index)

    def mark_done(self, index: int, event: Mapping[str, Any]) -> None:
        """Tell the element's job that its stage has ended, with ``event``."""
        write_whole(
            self.folder / f"{index}.done", json.dumps({**event, "time": time.time()}) + "\n"
        )
        self._seen["done"].add(index)

    @property
    def spare(self) -> set[int]:
        """Elements whose stages others have done and whose jobs have not ended.

        These jobs are no longer needed.
        """
        return self._seen["done"] - self._seen["ended"]

    def dismiss(self) -> None:
        """Stop waiting for the ends of spare elements."""
        self._seen["ended"] |= self.spare


@dataclass(frozen=True)
class Submissions:
    """All submissions of one store."""

    root: Path

    def open(self, known: Mapping[str, Submission] | None = None) -> dict[str, Submission]:
        """The submissions that may have jobs in Slurm, by name, oldest first.

        Those in ``known`` are not read again.
        """
        known = known or {}
        submissions = {
            name: known.get(name) or Submission(self.root / name)
            for name in self._open_names()
            if (self.root / name / "intent.json").exists()
        }
        return dict(sorted(submissions.items(), key=lambda item: (item[1].intent["time"], item[0])))

    def stages(self) -> set[str]:
        """The stages of all open submissions, and their inputs."""
        keys: set[str] = set()
        for name in self._open_names():
            for spec in _specs(self.root / name / "stages.jsonl"):
                keys |= {spec["key"], *spec["needs"].values()}
        return keys

    def _open_names(self) -> list[str]:
        try:
            return os.listdir(self.root / "open")
        except FileNotFoundError:
            return []

    def create(
        self,
        array: Array,
        name: str,
        sweep: str,
        behind: Mapping[str, Sequence[Place]],
        tries: Mapping[str, Sequence[Mapping[str, str]]],
        output: str | None = None,
    ) -> Submission:
        """Write ``intent.json`` and ``stages.jsonl`` for ``array``. The caller adds the script."""
        label = re.sub(r"\W+", "-", array.first.label)
        token = f"{label}-{secrets.token_hex(5)}"
        submission = Submission(self.root / token)
        submission.folder.mkdir(parents=True)
        (self.root / "open").mkdir(exist_ok=True)
        keys = {index: stage.key for index, stage in array.stages.items()}
        intent = {
            "time": round(time.time(), 3),
            "host": socket.gethostname(),
            "job_name": f"{name}.{token}",
            "label": array.first.label,
            "sweep": sweep,
            "output": output or f"{submission.folder}/%a.out",
            "keys": keys,
            "behind": {
                key: [str(place) for place in behind[key]]
                for key in keys.values()
                if behind.get(key)
            },
            "tries": {key: tries[key] for key in keys.values() if tries.get(key)},
        }
        with open(submission.folder / "stages.jsonl", "w", encoding="utf-8") as file:
            for index, stage in array.stages.items():
                tried = {"tries": tries[stage.key]} if tries.get(stage.key) else {}
                spec = json.dumps(
                    {**stage.spec, **tried}, ensure_ascii=False, separators=(",", ":")
                )
                file.write(f'{{"index":{index},"spec":{spec}}}\n')
        (self.root / "open" / token).touch()
        write_whole(submission.folder / "intent.json", json.dumps(intent, ensure_ascii=False))
        return submission

    def close(self, submission: Submission, *, void: bool = False) -> None:
        """Mark the submission as ended. ``void``: it never reached Slurm."""
        if void:
            (submission.folder / "void").touch()
        (self.root / "open" / submission.name).unlink(missing_ok=True)

    def discard(self, submission: Submission) -> None:
        """Delete a submission that Slurm did not accept."""
        self.close(submission)
        shutil.rmtree(submission.folder, ignore_errors=True)


def _specs(path: Path) -> Iterator[dict[str, Any]]:
    """The specs of a submission's stages, as far as they are written."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)["spec"]
