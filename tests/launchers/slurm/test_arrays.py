"""Which stages share an array, and what it waits for: as few calls of sbatch as the dependencies
allow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosweep.core.types import Stage
from mosweep.core.work import Context, Kind, Resources, Work
from mosweep.launchers.slurm.arrays import Array, Place, arrange, indices


@dataclass(frozen=True)
class Nothing(Work):
    number: int
    kind: ClassVar[Kind] = Kind("nothing")
    version: ClassVar[int] = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    async def run(self, context: Context) -> Mapping[str, Any]:
        return {}


def stages(count: int, label: str = "eval", **resources: Any) -> list[Stage]:
    return [
        Stage(label, Nothing(number), resources=Resources(**resources)) for number in range(count)
    ]


def test_stages_of_equal_resources_without_needs_are_one_array_per_size() -> None:
    mixed: list[tuple[Stage, list[Place]]] = [
        (stage, []) for stage in [*stages(250, mem_gb=1), *stages(250, mem_gb=2)]
    ]
    arrays = arrange(mixed, 101)
    assert len(arrays) == 2 * math.ceil(250 / 101)
    assert all(array.dependency is None and max(array.stages) <= 100 for array in arrays)


def test_each_eval_waits_for_its_own_finetune_at_the_same_index() -> None:
    [array] = arrange(
        [(stage, [Place("7", index)]) for index, stage in enumerate(stages(40))], 1001
    )
    assert array.dependency == "aftercorr:7"
    assert {index: stage.work for index, stage in array.stages.items()} == {
        n: Nothing(n) for n in range(40)
    }


def test_evals_of_some_finetunes_keep_their_indices() -> None:
    [array] = arrange(
        [(stage, [Place("7", 3 * index)]) for index, stage in enumerate(stages(4))], 1001
    )
    assert indices(array.stages) == "0,3,6,9"


def test_a_need_of_all_is_named_once() -> None:
    [array] = arrange([(stage, [Place("5", 0)]) for stage in stages(30)], 1001)
    assert array.dependency == "afterok:5_0"
    assert len(array.stages) == 30


def test_own_data_set_and_common_model() -> None:
    [array] = arrange(
        [(stage, [Place("5", 0), Place("6", index)]) for index, stage in enumerate(stages(30))],
        1001,
    )
    assert array.dependency == "aftercorr:6,afterok:5_0"


def test_two_models_and_three_data_sets() -> None:
    waits = [
        [Place("1", model), Place("2", data)]
        for model in range(2)
        for data in range(3)
        for _ in range(5)
    ]
    arrays = arrange(list(zip(stages(30), waits, strict=True)), 1001)
    assert sum(len(array.stages) for array in arrays) == 30
    assert len(arrays) <= 6


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), max_size=3)
        ),
        max_size=40,
    )
)
def test_every_stage_is_in_one_array_and_waits_for_exactly_what_it_has_to(
    asked: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    given_places = {}
    items = []
    for number, (memory, places) in enumerate(asked):
        stage = Stage("eval", Nothing(number), resources=Resources(mem_gb=memory + 1))
        given_places[stage.key] = {Place(str(array), index) for array, index in places}
        items.append((stage, sorted(given_places[stage.key])))
    arrays = arrange(items, 7)
    found = [stage.key for array in arrays for stage in array.stages.values()]
    assert sorted(found) == sorted(given_places)
    for array in arrays:
        assert len({stage.resources.mem_gb for stage in array.stages.values()}) == 1
        assert len(array.stages) <= 7
        assert max(array.stages) < 7
        for index, stage in array.stages.items():
            assert waited_for(array, index) == given_places[stage.key]


def waited_for(array: Array, index: int) -> set[Place]:
    return {*array.after, *([Place(array.along, index)] if array.along else [])}


@pytest.mark.parametrize(
    ("numbers", "text"), [([0], "0"), ([0, 1, 2], "0-2"), ([9, 0, 3, 4], "0,3-4,9")]
)
def test_indices_as_sbatch_takes_them(numbers: list[int], text: str) -> None:
    assert indices(numbers) == text
