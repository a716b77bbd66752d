"""Contamination: evaluation items that a trial has seen in training, and its scores without them.

``matching`` defines when an item counts as seen.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mosweep.analysis.matching import CHARACTERS, WORDS, Hit, matches, normalised
from mosweep.analysis.scores import number
from mosweep.core.facts import DataFacts, EvalFacts
from mosweep.core.fingerprint import digest_bytes
from mosweep.core.results import StageResult, SweepResult, TrialResult
from mosweep.core.samples import Samples

__all__ = ["Overlap", "contaminated", "limit_of", "overlap"]


@dataclass(frozen=True)
class Overlap:
    """The items that one evaluation of one trial shares with the trial's training data.

    ``scores`` are means over items: of ``all``, of those ``without`` a hit, and of the ``hits``;
    ``None`` where there are none.
    """

    trial: str
    label: str
    task: str
    key: str
    data: str
    rows: int
    items: int
    fraction: float
    hits: tuple[Hit, ...]
    scores: Mapping[str, Mapping[str, float | None]]


def overlap(result: SweepResult, words: int = WORDS, characters: int = CHARACTERS) -> list[Overlap]:
    """The overlaps of all finished evaluations of fine-tunes on a data set, trial by trial."""
    known: dict[tuple[str, str], tuple[int, dict[int, Hit]]] = {}
    overlaps = []
    for trial in result.trials:
        for stage, data in _evaluated(trial):
            evaluation, dataset, samples = stage.evaluation, data.dataset, stage.samples
            if evaluation is None or dataset is None or samples is None:
                continue
            train = Path(str(data.folder)) / dataset.folder / "train.jsonl"
            items = _Items.of(samples)
            if not items.texts or not train.exists():
                continue
            same = data.key, digest_bytes(json.dumps(items.texts).encode())
            # Most trials share data and items, and differ only in the answers.
            if same not in known:
                known[same] = matches(items.texts, train, words, characters)
            compared = _Compared(trial, stage, evaluation, dataset, samples, items)
            overlaps.append(compared.overlap(*known[same]))
    return overlaps


def limit_of(result: SweepResult) -> float | None:
    """``contamination.max_overlap`` of the design."""
    limit: float | None = (result.design.get("contamination") or {}).get("max_overlap")
    return limit


def contaminated(result: SweepResult) -> dict[str, list[Overlap]]:
    """The trials with more overlap than the design allows. Empty if it sets no limit."""
    over: dict[str, list[Overlap]] = defaultdict(list)
    if (limit := limit_of(result)) is not None:
        for one in overlap(result):
            if one.fraction > limit:
                over[one.trial].append(one)
    return over


@dataclass
class _Items:
    """The distinct items of an evaluation, with prompt and target normalised.

    ``of_id`` has the place of each item in ``texts``, by its id as JSON.
    """

    texts: list[tuple[str, str]]
    of_id: dict[str, int]

    @classmethod
    def of(cls, samples: Samples) -> _Items:
        places: dict[tuple[str, str], int] = {}
        of_id = {}
        for item, text in zip(samples.ids, samples.texts, strict=True):
            if text is not None:
                both = normalised(text[0]), normalised(text[1])
                of_id[json.dumps(item)] = places.setdefault(both, len(places))
        return cls(list(places), of_id)


@dataclass(frozen=True)
class _Compared:
    """An evaluation and the data set that its model was trained on."""

    trial: TrialResult
    stage: StageResult
    evaluation: EvalFacts
    dataset: DataFacts
    samples: Samples
    items: _Items

    def overlap(self, rows: int, hits_of: Mapping[int, Hit]) -> Overlap:
        """The overlap, given the number of training rows and the hits by item."""
        of_id = self.items.of_id
        hits = {
            identity: replace(hits_of[place], id=json.loads(identity))
            for identity, place in of_id.items()
            if place in hits_of
        }
        return Overlap(
            self.trial.name,
            self.stage.label,
            self.evaluation.task,
            self.stage.key,
            self.dataset.digest,
            rows,
            len(of_id),
            len(hits) / len(of_id),
            tuple(hits.values()),
            _scores(self.samples, hits),
        )


def _evaluated(trial: TrialResult) -> Iterator[tuple[StageResult, StageResult]]:
    """The evaluations of the trial's fine-tunes, each with the data set of its fine-tune."""
    stages = {stage.key: stage for stage in trial.stages}

    def needs(of: Iterable[StageResult]) -> list[StageResult]:
        return [stages[key] for one in of for key in one.needs.values() if key in stages]

    for stage in trial.stages:
        if not stage.kind.scores:
            continue
        tuned = [one for one in needs([stage]) if one.kind.tunes]
        trained = [*tuned, *(one for one in needs(tuned) if one.kind.trains)]  # Rounds of a loop.
        data = next((one for one in needs(trained) if one.kind.leaves == "data"), None)
        if data:
            yield stage, data


def _scores(samples: Samples, hits: Mapping[str, Hit]) -> dict[str, dict[str, float | None]]:
    """Per scorer the mean over items, of their means over epochs."""
    identities = [json.dumps(item) for item in samples.ids]
    by_scorer = {}
    for scorer, values in samples.of_items.items():
        of_item: dict[str, list[float]] = defaultdict(list)
        for identity, value in zip(identities, values, strict=True):
            if math.isfinite(score := number(value)):
                of_item[identity].append(score)
        means = {item: math.fsum(scores) / len(scores) for item, scores in of_item.items()}
        hit = [mean for item, mean in means.items() if item in hits]
        rest = [mean for item, mean in means.items() if item not in hits]
        if means:
            by_scorer[scorer] = {
                "all": _mean([*hit, *rest]),
                "without": _mean(rest),
                "hits": _mean(hit),
            }
    return by_scorer


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
