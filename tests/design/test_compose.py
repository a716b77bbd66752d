"""The composer against Hydra itself: for any overrides the same configuration, or an error from
both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mosweep.config.primary import PRIMARY as CONFIG_NAME
from mosweep.core.errors import ConfigError, UserError
from mosweep.design.application import _Session
from mosweep.design.compose import Composer


def outcome(
    compose: Callable[[Sequence[str]], dict[str, Any]], overrides: Sequence[str]
) -> tuple[dict[str, Any] | None, Exception | None]:
    """What ``compose`` returns, and what it raises instead."""
    try:
        return compose(overrides), None
    except Exception as error:
        return None, error


class Both:
    """Hydra and our composer, on one primary configuration."""

    def __init__(self, hydra: Hydra, name: str) -> None:
        assert isinstance(hydra.config_loader, ConfigLoaderImpl)
        self.loader = hydra.config_loader
        self.master = hydra.compose_config(name, ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        self.composer = self.fresh()

    def fresh(self) -> Composer:
        return Composer(self.loader, self.master)

    def hydras(self, overrides: Sequence[str]) -> dict[str, Any]:
        """What Hydra's own sweeps would give the task function."""
        config = self.loader.load_sweep_config(self.master, list(overrides))
        with open_dict(config):
            config.pop("hydra")
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        return plain  # type: ignore[return-value]

    def check(self, overrides: Sequence[str]) -> bool:
        """Compare for one list of overrides; whether it is a legal one."""
        expected, refusal = outcome(self.hydras, overrides)
        found, error = outcome(self.composer.compose, overrides)
        if refusal is None:
            assert error is None, (
                f"{list(overrides)}: Hydra composes {expected}, we raise {error!r}"
            )
            # repr tells 1 from 1.0 and true, and knows NaN from null
            assert repr(found) == repr(expected), list(overrides)
            return True
        assert error is not None, (
            f"{list(overrides)}: Hydra refuses with {refusal!r}, we compose {found}"
        )
        for_users = isinstance(error, UserError | HydraException | OmegaConfBaseException)
        assert for_users or type(error) is type(refusal), (
            f"{list(overrides)}: not an error for users: {error!r}"
        )
        return False


@pytest.fixture(scope="module", autouse=True)
def _fresh_hydra() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


# -- the shipped configuration ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Iterator[Both]:
    with _Session() as hydra:
        yield Both(hydra, CONFIG_NAME)


GROUPS = [
    *(
        "model=tiny",
        "model=tiny-wide",
        "model='tiny'",
        "lora=default",
        "optim=default",
        "eval=dummy",
        "eval=inspect",
        "backend=dummy",
    ),
    *(
        "backend=torchtune",
        "tracking=none",
        "task=anything",
        "dataset=mine",
        "experiment=rank",
        "experiment=null",
        "resources=default",
    ),
]
WRONG_GROUPS = [
    "model=nosuch",
    "+model=tiny",
    "++model=tiny",
    "model=[tiny,tiny-wide]",
    "~model",
    "~model=tiny-wide",
    "model@x=tiny",
    "nosuch@x=1",
]
KEYS = [
    *("lora.rank", "lora.alpha", "lora.dropout", "optim.lr", "optim.epochs"),
    *("seed", "control", "experiment.name", "experiment.description"),
    *(
        "model.name",
        "model.generate.dim",
        "model.generate",
        "backend.delay_s",
        "backend.fail",
        "eval.tasks",
        "task.name",
        "tasks_dir",
    ),
    *(
        "controls",
        "treatments",
        "primary_metric",
        "torchtune",
        "resources.default",
        "lora",
        "store.dir",
    ),
]
WRONG_KEYS = [
    "lora.nosuch",
    "nosuch",
    "nosuch.key",
    "seed.key",
    "lora.rank.deep",
    "lora.",
    ".rank",
    "lora..rank",
    "Lora.rank",
    "lora.ränk",
]
OPEN_KEYS = [
    "torchtune.x",
    "torchtune.x.y",
    "inspect.limit",
    "resources.models.tiny.gpus",
    "resources.new",
    "lora.new",
    "new",
    "new.deep",
]
VALUES = [
    *(
        "4",
        "-3",
        "0",
        "-0",
        "007",
        "1_000",
        "0.5",
        "-0.0",
        "1.10",
        "-12.5",
        "1e-3",
        "1E5",
        "5.",
        ".5",
        "nan",
        "inf",
        "-inf",
        "NaN",
        "Inf",
    ),
    *("true", "false", "TRUE", "False", "yes", "null", "NULL", "none", "None"),
    *("abc", "a.b", "a-b", "a/b", "a b", "_x", "é", "aé", "a1", "1a"),
    *(
        "'quoted, text'",
        '"double"',
        "''",
        "'null'",
        "'4'",
        r"'it\'s'",
        r"a\,b",
        r"'\\${x}'",
        "[]",
        "[1,2.0,a]",
        "[1,[null,true]]",
        "{}",
    ),
    *("{a:1,b:[x]}", "{a:{b:null}}", "", "???", "'???'", "'${lora.rank}'", "${seed}"),
    *("${nosuch.key}", "'${.rank}'", "x${seed}y", "${oc.env:HOME}"),
    *("'${oc.env:MOSWEEP_NO_SUCH_VARIABLE}'", "${oc.select:lora.rank,3}", "1,2"),
    *("range(3)", "choice(1,2)", "int(4)", "str(4)", "a=b", "a:b", "[", "'open"),
]

values = st.sampled_from(VALUES) | st.integers().map(str) | st.floats().map(repr)
overrides = st.one_of(
    st.sampled_from(GROUPS),
    st.sampled_from(GROUPS),
    st.sampled_from(WRONG_GROUPS),
    st.builds("{}={}".format, st.sampled_from(KEYS), values),
    st.builds("{}={}".format, st.sampled_from(KEYS), values),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.integers(0, 9)),
    st.builds(
        "{}{}={}".format,
        st.sampled_from(["", "+", "++"]),
        st.sampled_from(KEYS + WRONG_KEYS + OPEN_KEYS),
        values,
    ),
    st.builds("~{}".format, st.sampled_from(KEYS + WRONG_KEYS)),
    st.builds("~{}={}".format, st.sampled_from(KEYS), values),
)
legal = st.one_of(
    st.sampled_from(GROUPS[:-2]),
    st.builds(
        "{}={}".format,
        st.sampled_from(["lora.rank", "lora.alpha", "optim.lr", "seed", "model.name", "tasks_dir"]),
        st.sampled_from(VALUES[:30]),
    ),
    st.builds(
        "lora.alpha={}".format,
        st.sampled_from(["'${lora.rank}'", "'${.rank}'", "${seed}", "'${optim.lr}'"]),
    ),
    st.builds(
        "+torchtune.{}={}".format,
        st.sampled_from("ab"),
        st.sampled_from(["1", "{x:1}", "[1]", "a"]),
    ),
    st.builds(
        "++{}={}".format,
        st.sampled_from(["torchtune.a.x", "inspect.limit", "seed"]),
        st.integers(0, 3),
    ),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_overrides=st.lists(overrides, max_size=4))
def test_any_overrides_compose_as_hydras(shipped: Both, given_overrides: list[str]) -> None:
    shipped.check(given_overrides)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given_overrides=st.lists(legal, min_size=1, max_size=7))
def test_many_legal_overrides_compose_as_hydras(shipped: Both, given_overrides: list[str]) -> None:
    shipped.check(given_overrides)


@pytest.mark.parametrize(
    "given_overrides",
    [
        [],
        ["lora.rank=4", "lora.rank=8"],
        ["seed=1", "++seed=2", "seed='3'"],
        ["model=tiny-wide", "model=tiny", "model.name=other"],
        ["model.name=other", "model=tiny-wide"],
        ["backend=dummy", "backend.fail=raise", "eval=inspect"],
        ["eval=inspect", "backend=dummy"],
        ["lora.alpha='${lora.rank}'", "lora.rank=7"],
        ["lora.rank=7", "lora.alpha='${lora.rank}'", "lora.rank=9"],
        ["lora.alpha='${model.generate.dim}'", "model=tiny-wide"],
        ["+torchtune.x.y=1", "+torchtune.x.z=2", "torchtune.x.y=3"],
        ["torchtune.a.b.c=1"],
        ["model.generate={dim:32}"],
        ["model.generate=null", "model.path=x"],
        ["~torchtune"],
        ["experiment=rank", "treatments=null", "controls.task=other"],
    ],
    ids=" ".join,
)
def test_legal_overrides_compose_as_hydras(shipped: Both, given_overrides: list[str]) -> None:
    assert shipped.check(given_overrides)


@pytest.mark.parametrize("value", VALUES)
def test_every_kind_of_value_is_hydras(shipped: Both, value: str) -> None:
    shipped.check([f"lora.rank={value}"])


@pytest.mark.parametrize("key", WRONG_KEYS + OPEN_KEYS)
def test_keys_that_are_new_or_wrong_are_hydras(shipped: Both, key: str) -> None:
    shipped.check([f"{key}=4"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.ranc=4", "lora.ranc=4: no such key; did you mean lora.rank"),
        ("lroa.rank=4", "lroa.rank=4: no such key; did you mean lora"),
        ("seed.x=4", "seed.x=4: seed is a value, not a section"),
        ("lora.ranc=[1,2]", "no such key; did you mean lora.rank"),
    ],
)
def test_an_unknown_key_is_explained(shipped: Both, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        shipped.composer.compose([override])
    assert words in str(caught.value)


# -- sharing ---------------------------------------------------------------------------------------

LISTS = [
    *(
        [],
        ["lora.rank=4"],
        ["lora.rank=8"],
        ["lora.rank=4", "lora.alpha=3"],
        ["lora.alpha=3", "lora.rank=4"],
        ["model.generate.dim=32"],
    ),
    *(
        ["model.generate.layers=3", "model.name=x"],
        ["seed=3"],
        ["backend=dummy", "backend.delay_s=2"],
        ["model=tiny-wide", "lora.rank=4"],
    ),
    *(
        ["+torchtune.x=1"],
        ["+torchtune.x=2", "lora.rank=4"],
        ["lora.alpha='${lora.rank}'", "lora.rank=5"],
    ),
    *(["experiment=rank", "seed=1"], ["seed=3"]),
]


def test_no_result_changes_another(shipped: Both) -> None:
    composer = shipped.fresh()
    results = [composer.compose(overrides) for overrides in LISTS]
    before = copy.deepcopy(results)
    again = [composer.compose(overrides) for overrides in reversed(LISTS)][::-1]
    assert repr(results) == repr(before)
    assert repr(again) == repr(before)
    assert [repr(result) for result in results] == [
        repr(shipped.hydras(overrides)) for overrides in LISTS
    ]


def test_top_levels_are_each_results_own(shipped: Both) -> None:
    composer = shipped.fresh()
    one = composer.compose(["lora.rank=4"])
    one["seed"] = "mine"
    one.pop("model")
    assert repr(composer.compose(["lora.rank=4"])) == repr(shipped.hydras(["lora.rank=4"]))


def test_sections_that_no_override_touches_are_shared(shipped: Both) -> None:
    composer = shipped.fresh()
    base, one, same, other = (
        composer.compose(overrides)
        for overrides in ([], ["lora.rank=4"], ["seed=2", "lora.rank=4"], ["lora.rank=8"])
    )
    assert one["model"] is same["model"] is other["model"] is base["model"]
    assert one["lora"] is same["lora"], "the same levels are the same section"
    assert one["lora"] is not other["lora"]
    deep = composer.compose(["model.generate.dim=32"])
    assert deep["model"] is not base["model"]
    assert deep["model"]["generate"] is not base["model"]["generate"]


def test_composing_costs_one_of_hydras_compositions_per_set_of_groups(
    shipped: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    composer = shipped.fresh()
    calls: list[list[str]] = []
    real = shipped.loader.load_sweep_config

    def counted(master: DictConfig, given: list[str]) -> DictConfig:
        calls.append(given)
        return real(master, given)

    monkeypatch.setattr(shipped.loader, "load_sweep_config", counted)
    for model in ("tiny", "tiny-wide"):
        for rank in range(1, 20):
            composer.compose(
                [f"model={model}", f"lora.rank={rank}", "optim.lr=1e-4", "+torchtune.x=1"]
            )
    assert calls == [["model=tiny"], ["model=tiny-wide"]]


# -- configurations with interpolations ------------------------------------------------------------

#: name → (a user's primary configuration, overrides beyond those that all are tried with)
INTERPOLATIONS: dict[str, tuple[str, list[list[str]]]] = {
    "none": ("", []),
    "absolute": (
        "copy: ${a}\nsection: ${sect}\ntext: 'a is ${a}, x is ${sect.x}'",
        [["section.x=9"], ["copy=9"], ["section.x=9", "sect.x=8"]],
    ),
    "a chain": ("b: ${c}\nc: ${d.e}\nd: ${sect.deep}\n", [["sect.deep.e=9"], ["d.e=9"], ["c=9"]]),
    "relative": (
        "r: {own: 1, sibling: '${.own}', up: '${..a}', across: '${..sect.x}'}",
        [["r.own=9"], ["r.sibling=9"], ["r.own=9", "a=8"]],
    ),
    "relative in a group": (
        "",
        [
            ["part=relative"],
            ["part=relative", "part.own=9"],
            ["part=relative", "part.deep.z=9"],
            ["part.own=9"],
        ],
    ),
    "nested": (
        "pointer: a\nthing: ${${pointer}}",
        [
            ["pointer=sect"],
            ["pointer=free", "free=9"],
            ["pointer=sect.x", "sect.x=9"],
            ["pointer=nosuch"],
        ],
    ),
    "brackets": (
        "b: ${sect[x]}\nc: ${sect[deep].e}\nd: ${items[1]}",
        [["sect.deep.e=9"], ["items=[7,8,9]"], ["items=[7]"]],
    ),
    "in lists": (
        "many: [1, '${a}', {k: '${sect.x}'}, ['x', '${.0}']]",
        [["many=[]"], ["many.0=9"], ["many.1=9"]],
    ),
    "environment": (
        "e: ${oc.env:MOSWEEP_TEST}\nf: ${oc.env:MOSWEEP_UNSET,none}\ng: "
        "'${oc.env:MOSWEEP_UNSET,${a}}'",
        [["e=9"], ["g=9"]],
    ),
    "environment unset": (
        "e: ${oc.env:MOSWEEP_UNSET}",
        [["e=9"], ["e=9", "a=8"], ["++e=9"], ["e='${a}'"], ["~e"]],
    ),
    "select": (
        "s: ${oc.select:sect.x,7}\nt: ${oc.select:nosuch,${a}}\nu: ${oc.select:new.key,5}",
        [["+new.key=9"], ["+nosuch=9"], ["s=9"]],
    ),
    "decode": (
        "d: ${oc.decode:'[1,2]'}\ne: ${oc.dict.keys:sect}\nf: ${oc.dict.values:sect.deep}\ng: "
        "${oc.create:{a:1}}",
        [["+sect.new=9"]],
    ),
    "to what is missing": ("needed: ???\nm: ${needed}", [["needed=9"], ["needed='${a}'"]]),
    "to nothing": ("m: ${nosuch.key}", [["m=9"], ["+nosuch.key=9"], ["m=9", "sect.x=8"]]),
    "to itself": ("m: ${m}", [["m=9"]]),
    "escaped": ("e: '\\${a}'\nf: 'cost: $5 {a}'", [["e=9"]]),
    "hydra by resolver": (
        "h: ${hydra:job.name}\nm: ${hydra:mode}\nc: '${hydra:job.name}-${a}'",
        [["h=9"], ["part=two"]],
    ),
    "hydra by key": ("h: ${hydra.job.name}", [["h=9"]]),
    "hydra's number": ("h: ${hydra:job.num}", [["h=9"]]),
    "the time": ("n: ${now:%Y-%m-%d %H:%M:%S.%f}", [["n=9"]]),
}

COMMON: list[list[str]] = [
    *(
        [],
        ["a=5"],
        ["sect.x=5"],
        ["part=two", "a=5", "part.own=6", "free=7"],
        ["sect={x:5}", "sect.deep=null"],
        ["items.0=5"],
    ),
    *(["a='${free}'", "free=5"], ["sect.deep.e=a b", "sect.x=6", "+sect.new=5", "~free"]),
]

PRIMARY = """\
defaults:
  - part: one
  - _self_
a: 1
free: 2
sect: {x: 3, deep: {e: 4}}
items: [1, 2]
"""

PARTS = {
    "one": "own: 1\n",
    "two": "own: 2\nmore: ${a}\n",
    "relative": "own: 3\ncopy: ${.own}\nup: ${..a}\ndeep: {z: 1, y: '${.z}', x: '${..own}'}\n",
}


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Both]]:
    """Hydra and our composer on a user's own configurations, by name."""
    conf = tmp_path_factory.mktemp("conf")
    (conf / "part").mkdir()
    for name, text in PARTS.items():
        (conf / "part" / f"{name}.yaml").write_text(text)
    for name, (text, _) in INTERPOLATIONS.items():
        (conf / f"{name.replace(' ', '_')}.yaml").write_text(PRIMARY + text)
    made: dict[str, Both] = {}
    with pytest.MonkeyPatch.context() as patch, _Session(str(conf)) as hydra:
        patch.setenv("MOSWEEP_TEST", "from the environment")
        patch.delenv("MOSWEEP_UNSET", raising=False)

        def both(name: str) -> Both:
            if name not in made:
                made[name] = Both(hydra, name.replace(" ", "_"))
            HydraConfig.instance().set_config(made[name].master)
            return made[name]

        yield both
        HydraConfig.instance().cfg = None


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_interpolations_read_what_hydra_would_have_them_read(
    user: Callable[[str], Both], name: str
) -> None:
    both = user(name)
    if name == "the time":
        assert both.master.n, "read once, Hydra's trials have the same time"
    legal = [both.check(overrides) for overrides in COMMON + INTERPOLATIONS[name][1]]
    assert any(legal) or name in ("hydra by key", "hydra's number"), (
        "something must compose, or this proves nothing"
    )


def test_a_configuration_that_cannot_be_resolved_can_be_mended_by_an_override(
    user: Callable[[str], Both],
) -> None:
    composer = user("environment unset").fresh()
    assert composer.compose(["e=/data", "a=2"])["e"] == "/data"
    with pytest.raises(UserError, match="MOSWEEP_UNSET"):
        composer.compose(["a=2"])


atoms = st.sampled_from(
    [
        "a",
        "free",
        "sect.x",
        "sect.deep.e",
        "part.own",
        "items",
        "items.1",
        "sect.deep",
        "sect",
        "part",
    ]
)
numbers = st.sampled_from(
    [
        "5",
        "6",
        "0.5",
        "word",
        "null",
        "[5,6]",
        "{x:5}",
        "'${a}'",
        "'${free}'",
        "'${sect.x}'",
        "'${..a}'",
        "'${oc.select:free}'",
    ]
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(
        [
            "absolute",
            "a chain",
            "relative",
            "nested",
            "select",
            "brackets",
            "in lists",
            "environment",
        ]
    ),
    given_overrides=st.lists(
        st.builds("{}={}".format, atoms, numbers)
        | st.sampled_from(["part=two", "part=one", "part=relative", "+sect.new=1", "~free"]),
        max_size=4,
    ),
)
def test_any_overrides_of_configurations_with_interpolations(
    user: Callable[[str], Both], name: str, given_overrides: list[str]
) -> None:
    user(name).check(given_overrides)
