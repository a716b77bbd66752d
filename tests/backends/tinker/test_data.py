"""What is made of chats for Tinker, without Tinker: tokens, loss mask, batches, recipes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import known

from mosweep.backends.tinker.data import (
    Example,
    LossOn,
    Pair,
    batch_of,
    batches,
    render,
    render_pairs,
)
from mosweep.backends.tinker.objectives import PreferenceObjective, preference_loss
from mosweep.backends.tinker.recipe import TinkerRecipe, load_recipe
from mosweep.backends.tinker.service import Service, load_renderer, recommended_renderer
from mosweep.core.errors import ConfigError, StageError, UserError
from mosweep.models.learning_rate import recommended_lr

CHATS = [
    {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "HELLO"}]},
    {
        "messages": [
            {"role": "system", "content": "Shout."},
            {"role": "user", "content": "a b\nc"},
            {"role": "assistant", "content": "A B\nC"},
            {"role": "user", "content": "é, 日本!"},
            {"role": "assistant", "content": "É, 日本!"},
        ]
    },
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models' tokenizer."""
    from mosweep.models.tokenizer import write_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def llama3(tokenizer: Path) -> Any:
    return load_renderer("llama3", "mosweep/tiny", tokenizer)


def recipe(**settings: Any) -> TinkerRecipe:
    return load_recipe(None, ("tiny",), {}, settings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("longest", [128, 50])
def test_tokens_and_loss_mask_are_torchtunes(llama3: Any, tokenizer: Path, longest: int) -> None:
    from torchtune.data import OpenAIToMessages
    from torchtune.models.llama3 import llama3_tokenizer

    places = {
        "path": str(tokenizer / "tokenizer.model"),
        "special_tokens_path": str(tokenizer / "tokenizer.json"),
    }
    theirs = llama3_tokenizer(**places, max_seq_len=longest)
    ours = render(llama3, CHATS, "message", longest)
    assert len(ours) == len(CHATS)
    for chat, example in zip(CHATS, ours, strict=True):
        tokens, masked = theirs.tokenize_messages(
            OpenAIToMessages(train_on_input=False)(chat)["messages"]
        )
        weights = [float(not hidden) for hidden in masked]
        assert masked[-1]  # torchtune ends with a token that nothing is learned from
        length = len(tokens) - 1
        assert list(example.tokens[:length]) == tokens[:-1]
        assert list(example.weights[:length]) == weights[:-1]
        assert length >= min(len(example.tokens), longest - 1)


def test_answers_alone_are_learned(llama3: Any) -> None:
    [one, two] = render(llama3, CHATS, "answer", 128)
    learned = [
        bytes(
            token
            for token, weight in zip(e.tokens, e.weights, strict=True)
            if weight and token < 256
        )
        for e in (one, two)
    ]
    assert [text.decode() for text in learned] == ["HELLO", "A B\nCÉ, 日本!"]
    assert one.tokens[:1] == (256,)
    # both ends of turn
    assert [token for token, weight in zip(two.tokens, two.weights, strict=True) if weight].count(
        263
    ) == 2


def test_messages_of_weight_0_are_not_learned(llama3: Any) -> None:
    chat = CHATS[1]["messages"]
    quiet = [{"messages": [*chat[:2], {**chat[2], "weight": 0}, *chat[3:]]}]
    for loss_on in ("answer", "message"):
        [example] = render(llama3, quiet, loss_on, 128)
        learned = bytes(
            token
            for token, weight in zip(example.tokens, example.weights, strict=True)
            if weight and token < 256
        )
        assert "A B" not in learned.decode()
        assert "É, 日本!" in learned.decode()


def test_what_leaves_nothing_to_learn_drops_out(llama3: Any) -> None:
    assert render(llama3, CHATS, "answer", 20) == []


def test_a_sample_that_cannot_be_rendered_is_named(llama3: Any) -> None:
    bad = {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [{"type": "image", "image": "x"}]},
        ]
    }
    with pytest.raises(StageError, match="sample 3 cannot be rendered"):
        render(llama3, [*CHATS, bad], "answer", 128)


def test_a_batch_is_the_mean_over_its_trained_tokens() -> None:
    made = batch_of(
        [Example((1, 2, 3), (0.0, 1.0, 1.0)), Example((4, 5, 6, 7), (1.0, 0.0, 1.0, 1.0))]
    )
    assert [datum.model_input.to_ints() for datum in made] == [[1, 2], [4, 5, 6]]
    assert [datum.loss_fn_inputs["target_tokens"].tolist() for datum in made] == [[2, 3], [5, 6, 7]]
    assert [datum.loss_fn_inputs["weights"].tolist() for datum in made] == [
        [0.25, 0.25],
        [0.0, 0.25, 0.25],
    ]


def test_every_epoch_takes_every_example_once_in_its_own_order() -> None:
    plan = batches(10, 3, 2, None, seed=5)
    assert [len(batch) for batch in plan] == [3] * 6
    first, second = ([index for batch in part for index in batch] for part in (plan[:3], plan[3:]))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert plan == batches(10, 3, 2, None, seed=5) != batches(10, 3, 2, None, seed=6)
    assert batches(10, 3, 2, 2, seed=5) == [*plan[:2], *plan[3:5]]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_have_their_closed_form(schedule: str) -> None:
    made = recipe(schedule=schedule, warmup_steps=4, learning_rate=2e-3, min_learning_rate=5e-4)
    forms: dict[str, Callable[[float], float]] = {
        "cosine": lambda p: 5e-4 + 1.5e-3 * (1 + math.cos(math.pi * p)) / 2,
        "linear": lambda p: 2e-3 - 1.5e-3 * p,
        "constant": lambda p: 2e-3,
    }
    expected = [2e-3 * step / 4 for step in (1, 2, 3, 4)] + [
        forms[schedule]((step - 5) / 16) for step in range(5, 21)
    ]
    assert [made.rate(step, 20) for step in range(1, 21)] == pytest.approx(expected)


def test_recipes_are_laid_over_each_other() -> None:
    assert load_recipe(None, ("no such model",), {}, {}).batch_size == 32
    made = load_recipe(None, ("tiny",), {"rank": 4, "learning_rate": 1e-4}, {"rank": 2})
    assert (made.rank, made.learning_rate, made.beta2, made.eps) == (2, 1e-4, 0.999, 1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": 1}, "tinker.lerning_rate=1: no such key; did you mean learning_rate"),
        ({"rank": 0}, "tinker.rank=0: must be ≥ 1"),
        ({"loss_on": "all"}, "tinker.loss_on=all"),
        ({"min_learning_rate": 1.0}, "min_learning_rate=1.0: must be ≤ learning_rate=0.003"),
        ({"train_attn": False, "train_mlp": False}, "nothing to train"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**settings)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"tinker.batch_size=32: the data set is too small for one step: it has 31 examples",
    ):
        recipe().steps(31)
    with pytest.raises(
        ConfigError, match=r"tinker.warmup_steps=10: must be less than the run's 6 steps"
    ):
        recipe().steps(100)
    assert recipe(epochs=3, max_steps_per_epoch=5).steps(1000) == 15


@pytest.mark.filterwarnings("ignore")
def test_the_cookbook_is_asked_for_learning_rates_and_renderers() -> None:
    assert recommended_lr("meta-llama/Llama-3.1-8B", "optim.x") == pytest.approx(2.856e-4, rel=1e-3)
    with pytest.raises(
        ConfigError,
        match="use_recommended_lr=true: tinker-cookbook recommends none for the model mosweep/tiny",
    ):
        recommended_lr("mosweep/tiny", "backend.use_recommended_lr")
    assert recommended_renderer("Qwen/Qwen3-8B") == "qwen3"
    with pytest.raises(ConfigError, match="has no renderer for mosweep/tiny"):
        recommended_renderer("mosweep/tiny")


def pairs(
    renderer: Any, *chats: Mapping[str, Any], loss_on: LossOn = "answer", longest: int = 128
) -> list[Pair]:
    return render_pairs(renderer, chats, loss_on, longest)


def learned(example: Example) -> str:
    return bytes(
        token
        for token, weight in zip(example.tokens, example.weights, strict=True)
        if weight and token < 256
    ).decode()


@pytest.mark.parametrize("loss_on", ["answer", "message"])
def test_of_preferences_the_last_answers_alone_are_learned(llama3: Any, loss_on: LossOn) -> None:
    chat = {
        "messages": [*CHATS[1]["messages"][:-1], {**CHATS[1]["messages"][-1], "weight": 0}],
        "rejected": "no",
    }
    [pair] = pairs(llama3, chat, loss_on=loss_on)
    header = "" if loss_on == "answer" else "assistant\n\n"
    assert (learned(pair.chosen), learned(pair.rejected)) == (f"{header}É, 日本!", f"{header}no")
    # The chosen side is what a supervised fine-tune sees of the same chat, with its other answers
    # given.
    given = [{**message, "weight": 0} for message in CHATS[1]["messages"][:-1]]
    assert [pair.chosen] == render(
        llama3, [{"messages": [*given, CHATS[1]["messages"][-1]]}], loss_on, 128
    )
    common = next(
        place
        for place, (a, b) in enumerate(
            zip(pair.chosen.weights, pair.rejected.weights, strict=False)
        )
        if a or b
    )
    assert pair.chosen.tokens[:common] == pair.rejected.tokens[:common]


def test_a_pair_of_which_one_side_has_nothing_left_drops_out(llama3: Any) -> None:
    chat, length = (
        {**CHATS[0], "rejected": "no"},
        len(render(llama3, CHATS[:1], "answer", 128)[0].tokens),
    )
    assert len(pairs(llama3, chat, chat)) == 2
    [cut] = pairs(llama3, chat, longest=length - 3)
    assert learned(cut.chosen) == "HEL"
    assert pairs(llama3, chat, longest=length - 6) == []


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            CHATS[0],
            "sample 2: method=dpo needs the dispreferred answer, as text, in rejected",
        ),
        ({**CHATS[0], "rejected": {"role": "assistant", "content": "no"}}, "as text, in rejected"),
        (
            {"messages": CHATS[1]["messages"][:-1], "rejected": "no"},
            "sample 2: method=dpo needs the preferred answer as the last message",
        ),
    ],
)
def test_a_sample_that_is_no_preference_is_named(
    llama3: Any, row: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        pairs(llama3, {**CHATS[0], "rejected": "no"}, row)


@pytest.mark.filterwarnings("ignore")
def test_the_loss_of_preferences_and_its_gradient_have_their_closed_form() -> None:
    import torch

    beta, chosen, rejected = 0.3, torch.tensor([1.5, -2.0, 0.0]), torch.tensor([-0.5, 4.0, 0.0])
    chosen.requires_grad_(), rejected.requires_grad_()
    loss, told = preference_loss(chosen, rejected, beta)
    margins = [beta * 2.0, beta * -6.0, 0.0]
    assert float(loss.detach()) == pytest.approx(
        sum(math.log(1 + math.exp(-margin)) for margin in margins) / 3
    )
    assert told == pytest.approx(
        {
            "loss": float(loss.detach()),
            "accuracy": 1 / 3,  # the second is wrong, and a tie is no success
            "margin": sum(margins) / 3,
            "chosen_reward": beta * -0.5 / 3,
            "rejected_reward": beta * 3.5 / 3,
        }
    )
    torch.autograd.backward(loss)
    slopes = [-beta / (1 + math.exp(margin)) / 3 for margin in margins]
    assert known(chosen.grad).tolist() == pytest.approx(slopes)
    assert known(rejected.grad).tolist() == pytest.approx([-slope for slope in slopes])


@pytest.mark.filterwarnings("ignore")
def test_a_step_of_preferences_learns_every_answer_by_how_wrong_its_pair_is() -> None:
    """What reaches Tinker: both answers of every pair in turn, and the loss of what it says of them
    against the reference.
    """
    import torch

    good, bad = Example((1, 2, 3), (0.0, 0.0, 1.0)), Example((1, 2, 4, 5), (0.0, 0.0, 1.0, 1.0))
    reference = {1: (-2.0, -3.0), 0: (0.0, 0.0)}
    made: dict[str, Any] = {}

    class Training:
        def forward_backward_custom(self, data: Any, loss: Any) -> str:
            made.update(data=data, loss=loss)
            return "handed in"

    objective = PreferenceObjective(
        [Pair(bad, good), Pair(good, bad)],
        0.5,
        "model",
        Service("http://127.0.0.1:9"),
        print,
        reference,
    )
    handed: Any = objective.submit(Training(), [1])  # type: ignore[arg-type]
    assert handed == "handed in"
    assert [datum.model_input.to_ints() for datum in made["data"]] == [[1, 2], [1, 2, 4]]
    assert [datum.loss_fn_inputs["weights"].tolist() for datum in made["data"]] == [
        [0.0, 1.0],
        [0.0, 1.0, 1.0],
    ]
    logprobs = [
        torch.tensor([-9.0, -1.0], requires_grad=True),
        torch.tensor([-9.0, -2.0, -2.0], requires_grad=True),
    ]
    loss, told = made["loss"](made["data"], logprobs)
    margin = 0.5 * ((-1.0 + 2.0) - (-4.0 + 3.0))
    assert told["margin"] == pytest.approx(margin)
    torch.autograd.backward(loss)
    slope = -0.5 / (1 + math.exp(margin))
    assert [known(each.grad).tolist() for each in logprobs] == [
        pytest.approx([0, slope]),
        pytest.approx([0, -slope, -slope]),
    ]
    assert objective.used([1]) == {"tokens": 5, "forward": 5}


def test_recipes_of_preferences_lie_over_the_models_own() -> None:
    made = load_recipe(None, ("tiny",), {}, {}, "dpo")
    assert (made.beta, made.learning_rate, made.schedule, made.warmup_steps, made.rank) == (
        0.1,
        1e-5,
        "linear",
        0,
        8,
    )
    assert (
        load_recipe(None, ("tiny",), {"beta": 0.2, "learning_rate": 1e-3}, {}, "dpo").learning_rate
        == 1e-3
    )
    # one that is asked for by name lies over both
    assert load_recipe("tiny", (), {}, {}, "dpo").learning_rate == 3e-3
    assert recipe().beta is None


class Questions:
    """Tinker's SDK as far as the reference goes: every token has the log-probability -1;
    ``failure`` comes first.
    """

    def __init__(self, *failure: Exception) -> None:
        self.failure, self.asked, self.under_way, self.most = list(failure), 0, 0, 0

    async def create_sampling_client(self, base_model: str) -> Questions:
        assert base_model == "model"
        return self

    async def compute_logprobs(self, tokens: Any) -> list[float | None]:
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if self.failure:
            raise self.failure.pop()
        return [None] + [-1.0] * (len(tokens.to_ints()) - 1)


def asking(client: Questions, count: int = 200) -> tuple[PreferenceObjective, list[dict[str, Any]]]:
    """What was learned of so many pairs, and the notes of it."""
    pair, notes = Pair(Example((1, 2, 3), (0.0, 1.0, 1.0)), Example((1, 2), (0.0, 1.0))), []
    service = Service("http://127.0.0.1:9", client=client)  # type: ignore[arg-type]
    objective = PreferenceObjective(
        [pair] * count,
        0.1,
        "model",
        service,
        lambda event, **about: notes.append({"event": event, **about}),
    )
    asyncio.run(objective.prepare(client, range(count)))  # type: ignore[arg-type]
    return objective, notes


def test_the_reference_is_asked_once_a_pair_some_at_a_time_and_noted_as_it_comes() -> None:
    objective, notes = asking(client := Questions())
    assert objective.reference == dict.fromkeys(range(200), (-2.0, -1.0))
    assert (client.asked, client.most) == (400, 64)
    assert [len(note["pairs"]) for note in notes] == [128, 72]
    assert [(note["event"], note["forward"], note["sampled"]) for note in notes] == [
        ("reference", 640, 256),
        ("reference", 360, 144),
    ]
    asyncio.run(objective.prepare(client, range(150)))  # type: ignore[arg-type]
    assert client.asked == 400


@pytest.mark.filterwarnings("ignore")
def test_questions_for_the_reference_that_may_yet_be_answered_are_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import httpx
    import tinker

    request = httpx.Request("POST", "http://127.0.0.1:9")
    limited = tinker.RateLimitError(
        "slow down", response=httpx.Response(429, request=request), body=None
    )
    objective, _ = asking(
        client := Questions(limited, tinker.APIConnectionError(request=request)), 2
    )
    assert len(objective.reference) == 2
    assert client.asked == 6
    assert capsys.readouterr().out.count("retry in") == 2
    refused = tinker.BadRequestError(
        "too long", response=httpx.Response(400, request=request), body=None
    )
    with pytest.raises(tinker.BadRequestError):
        asking(client := Questions(refused), 100)
    assert client.asked < 200  # the first ends the others
