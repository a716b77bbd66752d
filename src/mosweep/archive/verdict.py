"""The verdict of ``verify``: what was checked, and the problems found."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Verdict", "verdict_text"]


@dataclass
class Verdict:
    """The result of a verification. The bundle ``holds`` if there is no problem.

    - ``incomplete``: trials without all their results.
    - ``recomputed``: metrics that follow from ``samples.jsonl``; ``unchecked``: those that do not.
    - ``left_out``: files that records name and the bundle does not have.
    - ``notes``: unchecked metrics that are named like a mean. The manifest says that they are not
      means.
    """

    bundle: str
    name: str = ""
    archive: str = ""
    design: str = ""
    files: int = 0
    trials: int = 0
    incomplete: int = 0
    stages: int = 0
    recomputed: int = 0
    unchecked: int = 0
    left_out: int = 0
    left_out_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def verdict_text(verdict: Verdict, limit: int = 20) -> str:
    """A verdict as readable text."""
    problems = _count(len(verdict.problems), "problem")
    head = "holds" if verdict.holds else f"DOES NOT HOLD: {problems}"
    lines = [
        f"{verdict.name or verdict.bundle}: {head}",
        *(f"  ✗ {problem}" for problem in verdict.problems[:limit]),
    ]
    if len(verdict.problems) > limit:
        lines.append(f"  … and {len(verdict.problems) - limit} more (--json lists all)")
    lines += [
        f"  ! {note}; the manifest says that it is not a mean" for note in verdict.notes[:limit]
    ]
    incomplete = f", {verdict.incomplete} of them without all results" if verdict.incomplete else ""
    lines.append(
        f"  {_count(verdict.trials, 'trial')}{incomplete}; {_count(verdict.stages, 'stage')}; "
        f"{_count(verdict.files, 'file')}"
    )
    lines.append(
        f"  {_count(verdict.recomputed, 'metric')} recomputed from the samples, "
        f"{verdict.unchecked} taken as recorded"
    )
    if verdict.left_out:
        size = f"{verdict.left_out_bytes / 1e6:,.1f} MB"
        lines.append(
            f"  not included: {_count(verdict.left_out, 'file')} ({size}) of weights and data; "
            "their SHA-256 is recorded"
        )
    lines += [f"  design   {verdict.design}"] if verdict.design else []
    return "\n".join([*lines, f"  archive  {verdict.archive}"])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
