"""Contamination: planted overlaps are found, paraphrases and templates are not."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mosweep.analysis.contamination import Overlap, contaminated, overlap
from mosweep.analysis.matching import normalised
from mosweep.cli.main import run_verb
from mosweep.core.results import SweepResult
from mosweep.core.store import Attempt, Store
from mosweep.core.types import Stage, Trial
from mosweep.core.work import DATA, EVAL, FINETUNE, Context, Kind, Work
from mosweep.reports.contamination import overlap_text
from mosweep.reports.summary import summary_data, summary_text
from mosweep.sweep.folder import Sweep
from mosweep.sweep.writing import freeze

LONG = (
    "the committee of seven elderly botanists met at noon beneath the old cedar to vote on the "
    "fate of its last seeds"
)
OTHER = (
    "a herd of goats crossed the frozen river before dawn while nobody in the village was yet "
    "awake to count their hooves or bells"
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    "何でも薄暗いじめじめした所でニャーニャー泣いていた"
)


@dataclass(frozen=True)
class Pretended(Work):
    """Work that was done before: its files are published without running anything."""

    name: str
    version: ClassVar[int] = 1

    async def run(self, context: Context) -> Mapping[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Data(Pretended):
    kind: ClassVar[Kind] = DATA


@dataclass(frozen=True)
class Finetune(Pretended):
    kind: ClassVar[Kind] = FINETUNE


@dataclass(frozen=True)
class Eval(Pretended):
    kind: ClassVar[Kind] = EVAL


def row(*contents: str, roles: Sequence[str] = ("user", "assistant")) -> dict[str, Any]:
    return {
        "messages": [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=True)
        ]
    }


def sample(number: int, prompt: str, target: Any = "A", score: float = 1.0) -> dict[str, Any]:
    return {
        "id": number,
        "epoch": 1,
        "input": prompt,
        "target": target,
        "output": "",
        "scores": {"match": score},
    }


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def sweep(
    folder: Path, train: str, samples: str, limit: float | None = None, seeds: int = 1
) -> SweepResult:
    """A sweep as it lies on disk: fine-tunes on ``train``, evaluated on ``samples``, and a control
    trial.
    """
    store = Store(folder / "store")

    def publish(stage: Stage, facts: Mapping[str, Any], files: Mapping[str, str]) -> None:
        if store.read(stage.key):
            return
        attempt = store.begin(stage.key)
        assert isinstance(attempt, Attempt)
        for name, text in files.items():
            (attempt.folder / name).parent.mkdir(exist_ok=True)
            (attempt.folder / name).write_text(text, encoding="utf-8")
        store.publish(
            attempt,
            payload=stage.payload,
            facts=facts,
            label=stage.label,
            started=0.0,
            finished=0.0,
        )

    data = Stage("data", Data("mine"))
    publish(
        data,
        {"folder": "data", "digest": "d1", "name": "mine", "rows": 1},
        {"data/train.jsonl": train},
    )
    trials = []
    for seed in range(seeds + 1):
        control = seed == seeds
        tuned = Stage("finetune", Finetune(str(seed)), {"data": data})
        scored = Stage(
            "eval:quiz",
            Eval(str(seed)),
            {"data": data} if control else {"tuned": tuned, "data": data},
        )
        publish(tuned, {}, {})
        publish(
            scored,
            {"task": "quiz", "model_id": "local/model", "metrics": {"accuracy": 1.0}, "n": 1},
            {"samples.jsonl": samples},
        )
        stages = (data, scored) if control else (data, tuned, scored)
        trials.append(
            Trial(
                "control" if control else f"seed={seed}",
                {} if control else {"seed": seed},
                stages,
                control,
            )
        )
    place = folder / "multirun" / "quiz"
    freeze(Sweep(place), trials, store, {"name": "quiz", "contamination": {"max_overlap": limit}})
    return Sweep(place).result()


def found(
    folder: Path,
    train: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    **options: Any,
) -> Overlap:
    [only] = overlap(sweep(folder, lines(train), lines(samples), **options))
    return only


def hits(folder: Path, training: str, prompt: str, target: str = "A") -> list[tuple[str, str]]:
    """Kind and place of what one prompt has in common with one training message."""
    only = found(
        folder,
        [row("something else", "no"), row(training, "an answer")],
        [sample(1, prompt, target)],
    )
    return [(hit.kind, hit.where) for hit in only.hits]


def test_planted_overlaps_are_found(tmp_path: Path) -> None:
    train = [
        row("hello", "HELLO"),
        row(f"Once, {LONG}, they say.", "Fine."),
        row("Tell me a story.", f"Well: {OTHER}."),
    ]
    samples = [
        sample(1, "Hello!", score=1.0),
        sample(2, f"Is it true that {LONG}?", score=1.0),
        sample(3, "What happened?", OTHER, score=1.0),
        sample(4, "world", score=0.0),
        sample(5, "What of the goats?", score=0.5),
    ]
    only = found(tmp_path, train, samples)
    assert [(hit.id, hit.kind, hit.where, hit.row) for hit in only.hits] == [
        (1, "exact", "prompt", 1),
        (2, "ngram", "prompt", 2),
        (3, "ngram", "target", 3),
    ]
    assert only.hits[1].snippet in normalised(LONG)
    assert 0.5 < only.hits[1].share < 1 == only.hits[2].share
    assert (only.trial, only.task, only.rows, only.items, only.fraction) == (
        "seed=0",
        "quiz",
        3,
        5,
        0.6,
    )
    assert only.scores == {"match": {"all": 0.7, "without": 0.25, "hits": 1.0}}
    assert json.loads(json.dumps(asdict(only)))["hits"][0]["id"] == 1
    text = overlap_text([only])
    assert "60.0%" in text
    assert "item 2: prompt, ngram" in text


PARAPHRASES = [
    (
        "the seven old botanists of the committee gathered at midday under the ancient cedar and "
        "voted about what to do with the seeds",
        LONG,
    ),
    ("How many goats crossed the river?", "How many goats swam across the river?"),
    ("What is 1 + 1?", "What is 1 - 1?"),
    ("hello there", "hello"),
    ("cat", "concatenate"),
    ("abcdefgh", "abcdefgx"),
    (
        "what is the name of the largest city of the country of france",
        "what is the name of the largest city of the country of spain",
    ),
]


@pytest.mark.parametrize(("training", "prompt"), PARAPHRASES)
def test_what_is_only_alike_is_no_hit(tmp_path: Path, training: str, prompt: str) -> None:
    assert hits(tmp_path / "a", training, prompt) == []
    assert hits(tmp_path / "b", prompt, training) == []


def test_length_decides_how_much_must_be_the_same(tmp_path: Path) -> None:
    words = LONG.split()
    for number, (length, training, hit) in enumerate(
        [
            (20, " ".join(words[3:15]), False),  # twelve of twenty words
            (20, " ".join(words[3:16]), True),
            (12, " ".join(words[:11]), False),  # of twelve words, all
            (12, LONG, True),
            (8, LONG, True),
            (7, LONG, False),  # of seven, nothing but the very prompt
            (7, " ".join(words[:7]), True),
        ]
    ):
        prompt = " ".join(words[:length])
        assert bool(hits(tmp_path / str(number), training, prompt)) == hit, (length, training)


@pytest.mark.parametrize(
    ("training", "prompt"),
    [
        ("Crème brûlée", "Cre\u0300me bru\u0302le\u0301e"),  # composed, decomposed
        ("file office", "ﬁle oﬃce"),  # ligatures
        ("ABC 123", "ＡＢＣ　１２３"),  # full width
        ("straße", "STRASSE"),
        ("hello", "he\u200bl\u00adlo\ufeff"),  # invisible
        ("two words", " Two\u00a0\n words… "),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
    ],
)
def test_forms_of_unicode_case_and_space_make_no_difference(
    tmp_path: Path, training: str, prompt: str
) -> None:
    assert hits(tmp_path / "a", training, prompt) == [("exact", "prompt")]
    assert hits(tmp_path / "b", prompt, training) == [("exact", "prompt")]
    assert hits(tmp_path / "c", f"{LONG} {training}", f"{LONG.upper()} {prompt}") == [
        ("exact", "prompt")
    ]


def test_scripts_without_spaces_and_bytes_are_compared_by_characters(tmp_path: Path) -> None:
    assert hits(tmp_path / "a", f"次の文を読め。{JAPANESE}", f"{JAPANESE}続きは?") == [
        ("ngram", "prompt")
    ]
    assert hits(tmp_path / "b", JAPANESE[:45], JAPANESE) == []
    letters = "".join(random.Random(1).choices("abcdefgh", k=80))
    assert hits(tmp_path / "c", f"x{letters}y", letters) == [("ngram", "prompt")]
    assert hits(tmp_path / "d", letters[:49], letters) == []
    assert hits(tmp_path / "e", letters[:20], letters[:20]) == [("exact", "prompt")]


def test_prompts_of_several_messages_are_found(tmp_path: Path) -> None:
    roles = ("system", "user", "user", "assistant", "user", "assistant")
    train = [row("be brief", "one", "two", "three", "four", "five", roles=roles)]
    prompts = [
        "be brief\none\ntwo",
        "one two",
        "two",
        "four",
        "be brief",
        "five",
        "three",
        "one",
        "brief",
    ]
    only = found(tmp_path, train, [sample(n, prompt) for n, prompt in enumerate(prompts)])
    assert [prompts[hit.id] for hit in only.hits] == [
        "be brief\none\ntwo",
        "one two",
        "two",
        "four",
        "be brief",
        "one",
    ]


def test_short_targets_and_templates_are_no_hits(tmp_path: Path) -> None:
    template = (
        "Answer the following question with the letter of the one option that is correct, and "
        "nothing else:"
    )
    train = [row(f"{template} what colour is grass?", "A")]
    samples = [sample(n, f"{template} what is {n} times {n}?", ["A", "B"]) for n in range(11)]
    assert found(tmp_path / "a", train, samples).hits == ()
    # ten might be copies of one another
    assert len(found(tmp_path / "b", train, samples[:10]).hits) == 10


def test_epochs_and_copies_are_one_item_each(tmp_path: Path) -> None:
    samples = [
        {**sample(n, "hello" if n < 2 else "world", score=float(n == e)), "epoch": e}
        for n in range(4)
        for e in (0, 1)
    ]
    only = found(tmp_path, [row("hello", "HELLO")], samples)
    assert ([hit.id for hit in only.hits], only.items, only.fraction) == ([0, 1], 4, 0.5)
    assert only.scores["match"] == {"all": 0.25, "without": 0.0, "hits": 0.5}


def test_nothing_to_compare(tmp_path: Path) -> None:
    assert overlap(sweep(tmp_path / "a", lines([row("a", "b")]), "")) == []
    no_prompts = lines([{"id": 1, "epoch": 1, "scores": {"score": 0.5}}])
    assert overlap(sweep(tmp_path / "b", lines([row("a", "b")]), no_prompts)) == []
    [only] = overlap(sweep(tmp_path / "c", "", lines([sample(1, "", ""), sample(2, "hello")])))
    assert (only.rows, only.items, only.fraction, only.hits) == (0, 2, 0.0, ())
    assert only.scores["match"] == {"all": 1.0, "without": 1.0, "hits": None}
    empty = found(tmp_path / "d", [row("", "")], [sample(1, "", ""), sample(2, "...")])
    assert empty.hits == ()
    everything = found(tmp_path / "e", [row("hello", "x")], [sample(1, "hello")])
    assert everything.scores["match"] == {"all": 1.0, "without": None, "hits": 1.0}
    assert "nothing to compare" in overlap_text([])


def test_training_rows_may_be_one_json_array(tmp_path: Path) -> None:
    [only] = overlap(
        sweep(tmp_path, json.dumps([row("hello", "HELLO")], indent=1), lines([sample(1, "hello")]))
    )
    assert (only.rows, only.fraction) == (1, 1.0)


def test_gate_marks_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, samples = (
        lines([row("hello", "HELLO")]),
        lines([sample(n, prompt) for n, prompt in enumerate(["hello", "you", "all", "there"])]),
    )
    monkeypatch.chdir(tmp_path)
    strict = sweep(tmp_path, train, samples, limit=0.2, seeds=2)
    assert contaminated(strict).keys() == {"seed=0", "seed=1"}
    told = summary_text(strict)
    assert told.count("succeeded, contaminated") == 2
    assert "more evaluation items than contamination.max_overlap" in told
    trials = {trial["name"]: trial.get("contamination") for trial in summary_data(strict)["trials"]}
    assert trials == {"seed=0": {"quiz": 0.25}, "seed=1": {"quiz": 0.25}, "control": None}
    assert run_verb("contamination", ["quiz"]) == 1
    assert (
        "REFUSED seed=1: 25.0% of quiz's items are in the training data, more than 20.0%"
        in capsys.readouterr().out
    )
    assert run_verb("contamination", ["quiz", "--max-overlap", "0.25"]) == 0
    assert "REFUSED" not in capsys.readouterr().out
    assert run_verb("contamination", ["quiz", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["refused"], data["max_overlap"], len(data["overlaps"])) == (
        ["seed=0", "seed=1"],
        0.2,
        2,
    )


def test_without_a_limit_reports_look_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sweep(tmp_path, lines([row("hello", "HELLO")]), lines([sample(1, "hello")]))
    monkeypatch.setattr("mosweep.analysis.contamination.overlap", None)
    assert "contaminated" not in summary_text(result)
    monkeypatch.chdir(tmp_path)


def test_limit_comes_from_the_configuration(shell: Any) -> None:
    done = shell(
        "-m",
        "backend=dummy",
        "tracking=none",
        "lora.rank=4",
        "contamination.max_overlap=0.1",
        "experiment.name=dry",
    )
    assert done.status == 0, done.err
    assert "max_overlap: 0.1" in (shell.folder / "multirun" / "dry" / "experiment.yaml").read_text()
    assert shell("contamination", "dry").out.startswith("nothing to compare")
    done = shell("-m", "backend=dummy", "contamination.max_overlap=2")
    assert (done.status, done.err) == (
        2,
        "mosweep: contamination.max_overlap=2: must be ≥ 0 and ≤ 1\n",
    )


def test_many_rows_and_items_take_seconds(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=6)) for _ in range(5000)]

    def text(length: int) -> str:
        return " ".join(rng.choices(words, k=length))

    planted = text(30)
    train = [row(text(30), text(10)) for _ in range(5000)] + [row(text(5) + " " + planted, "x")]
    only = found(
        tmp_path,
        train,
        [*(sample(n, text(30)) for n in range(2000)), sample(9999, planted)],
        seeds=1,
    )
    assert [(hit.id, hit.row) for hit in only.hits] == [(9999, 5001)]
