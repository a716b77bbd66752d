"""Submissions: what was, or is about to be, given to Slurm, on disk before sbatch runs.

    slurm/open/<name>            a mark per submission that may still have jobs in Slurm
    slurm/<name>/intent.json     which stages, in which order, behind which jobs; written first
    slurm/<name>/stages.jsonl    the stages in full, a line per array element
    slurm/<name>/job.sh          the script as given to sbatch
    slurm/<name>/answer          sbatch's own output: the number of the array, also if we die while
                                 sbatch runs
    slurm/<name>/void            sbatch never got through: should a job of this name turn up after
                                 all, it ends at once
    slurm/<name>/<i>.started     element i began: its log, when, where
    slurm/<name>/<i>.done        another element's job, or a launch, has done i's stage: what i's
                                 job will leave as its own word
    slurm/<name>/<i>.ended       element i came to an end of its own: how

They lie in the store, so that every sweep which wants a stage finds the job that another one has
submitted for it.
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

#: What elements leave in their submission's folder.
MARKS = ("started", "done", "ended")


@dataclass
class Submission:
    """One array in its folder. ``array`` is its number in Slurm once that is known."""

    folder: Path
    array: str | None = None
    _seen: dict[str, set[int]] = field(
        default_factory=lambda: {what: set() for what in MARKS}, repr=False
    )

    @cached_property
    def intent(self) -> dict[str, Any]:
        """What was meant: ``label``, ``keys`` by index, ``behind`` (per key the places it waits
        for), ``tries`` so far, ``resources``.
        """
        data: dict[str, Any] = json.loads((self.folder / "intent.json").read_bytes())
        data["keys"] = {int(index): key for index, key in data["keys"].items()}
        return data

    @property
    def name(self) -> str:
        """What the folder is called; the job's name in Slurm ends with it."""
        return self.folder.name

    @property
    def job_name(self) -> str:
        """What the job is called in Slurm; no two are called alike."""
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
        """What sbatch said."""
        return self.folder / "answer"

    @property
    def is_void(self) -> bool:
        """Whether it was found never to have reached Slurm."""
        return (self.folder / "void").exists()

    @property
    def age_s(self) -> float:
        """Seconds since it was meant."""
        return time.time() - float(self.intent["time"])

    @property
    def foreign(self) -> bool:
        """Whether another machine gave it to sbatch, so that we cannot see whether that sbatch
        still runs.
        """
        return str(self.intent["host"]) != socket.gethostname()

    def read_answer(self) -> bool:
        """Learn ``array`` from sbatch's output if it is there; whether sbatch still runs."""
        running, number = read_answer(self.answer)
        self.array = self.array or number
        return running

    def adopt(self, array: str) -> None:
        """Remember the number that Slurm was asked for, since sbatch's own answer was lost."""
        self.array = array
        self.answer.write_text(array + "\n")

    def log(self, index: int) -> Path:
        """What element ``index`` printed outside of its stage: all there is when it never began."""
        return Path(self.intent["output"].replace("%A", self.array or "").replace("%a", str(index)))

    def printed(self, index: int) -> str:
        """The last that the job printed outside of its stage, Slurm's own words among it."""
        texts = []
        for path in (self.log(index), self.log(index).with_suffix(".err")):
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(max(0, path.stat().st_size - 4096))
                texts.append(file.read().decode(errors="replace"))
        return "\n".join(texts)

    def news(self) -> Iterator[tuple[int, str]]:
        """``(index, "started" | "done" | "ended")`` of the marks that have appeared since the last
        call.
        """
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
        """What the element wrote when it ``started`` or ``ended``, if it did."""
        try:
            data: dict[str, Any] = json.loads((self.folder / f"{index}.{what}").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return data

    def end(self, index: int) -> dict[str, Any] | None:
        """How the element's stage came to an end, in its own job or in another's, if it did."""
        return self.mark(index, "ended") or self.mark(index, "done")

    def read_again(self, index: int) -> None:
        """The element runs again, or is about to write what could not be read yet: that will be
        news.
        """
        for seen in self._seen.values():
            seen.discard(index)

    def do(self, index: int, event: Mapping[str, Any]) -> None:
        """Leave word for the element's job that its stage is done, and how."""
        write_whole(
            self.folder / f"{index}.done", json.dumps({**event, "time": time.time()}) + "\n"
        )
        self._seen["done"].add(index)

    @property
    def spare(self) -> set[int]:
        """The elements that others are known to have done, and that have not said so themselves:
        their jobs are not needed any more.
        """
        return self._seen["done"] - self._seen["ended"]

    def dismiss(self) -> None:
        """Wait for no word of the spare elements any more."""
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
        """The stages of all open submissions, and what they need."""
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
        """Write the intent to submit ``array``, and its stages; the script is to be added."""
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
        """Nothing more will come of its jobs; ``void``: it never had any."""
        if void:
            (submission.folder / "void").touch()
        (self.root / "open" / submission.name).unlink(missing_ok=True)

    def discard(self, submission: Submission) -> None:
        """Slurm did not take it, for sure; it is meant no more."""
        self.close(submission)
        shutil.rmtree(submission.folder, ignore_errors=True)


def _specs(path: Path) -> Iterator[dict[str, Any]]:
    """The stages of a submission in full, as far as they are written."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)["spec"]
