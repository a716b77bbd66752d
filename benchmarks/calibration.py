"""How often the 95 % intervals of ``mosweep.analysis.statistics`` hold the truth: ``python -m
benchmarks.calibration``.

Every process below draws sweeps whose true effect is known, and is asked twice: with an effect (is
it in the interval?) and without (is one found?). ``width`` is the mean length of the interval over
that of one that knows the standard error of the estimate.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mosweep.analysis.power import minimum_effect
from mosweep.analysis.statistics import Components, Scores, compare
from mosweep.core.table import table_lines

Array = npt.NDArray[np.float64]
Blocks = list[tuple[Scores, Scores]]


@dataclass(frozen=True)
class Normal:
    """Scores whose parts are all normal, or with heavy tails, with these standard deviations.

    ``seeds`` and ``items``: per block, of the first and the second level, and in all blocks or one
    number each. ``items_sd`` is that of the difference between levels from item to item, of which
    blocks share half. ``runs_sd``: of the first and the second level.
    """

    seeds: tuple[tuple[int, int], ...] = ((3, 3),)
    items: tuple[int, ...] = (50,)
    effect: float = 0.03
    runs_sd: tuple[float, float] = (0.02, 0.02)
    items_sd: float = 0.1
    rest_sd: float = 0.1
    cluster: float = 0.0
    heavy: bool = False

    def draw(self, rng: np.random.Generator, effect: float) -> Blocks:
        normal = functools.partial(_heavy, rng) if self.heavy else rng.normal
        most = max(self.items)
        shared = self.items_sd / 2 * normal(size=(2, most))
        easy = 0.2 * normal(size=most)
        texts = _texts(rng, most)
        blocks = []
        for block, seeds in enumerate(self.seeds):
            n = self.items[block % len(self.items)]
            sides = []
            for level, runs in enumerate(seeds):
                moved = shared[level, :n] + self.items_sd / 2 * normal(size=n)
                if self.cluster:
                    moved = moved + self.cluster * normal(size=most)[texts[:n]]
                run = self.runs_sd[level] * rng.normal(size=(runs, 1))
                values = (
                    0.5
                    + level * effect
                    + easy[:n]
                    + moved
                    + run
                    + self.rest_sd * rng.normal(size=(runs, n))
                )
                sides.append(Scores(values, clusters=texts[:n] if self.cluster else None))
            blocks.append((sides[0], sides[1]))
        return blocks

    def truth(self, effect: float) -> float:
        return effect


@dataclass(frozen=True)
class Binary:
    """Right or wrong, with normal parts on the scale of the log-odds; ``base``: that of an average
    item in an average run.
    """

    seeds: tuple[int, int] = (3, 3)
    items: int = 100
    blocks: int = 2
    effect: float = 0.5
    base: float = 0.4
    run_sd: float = 0.3
    item_sd: float = 1.2
    moved_sd: float = 0.5

    def draw(self, rng: np.random.Generator, effect: float) -> Blocks:
        easy = self.item_sd * rng.normal(size=self.items)
        blocks = []
        for _ in range(self.blocks):
            sides = []
            for level, runs in enumerate(self.seeds):
                odds = (
                    self.base + level * effect + easy + self.moved_sd * rng.normal(size=self.items)
                )
                chance = 1 / (1 + np.exp(-odds - self.run_sd * rng.normal(size=(runs, 1))))
                sides.append(Scores((rng.random((runs, self.items)) < chance).astype(float)))
            blocks.append((sides[0], sides[1]))
        return blocks

    def truth(self, effect: float) -> float:
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        spread = np.sqrt(self.run_sd**2 + self.item_sd**2 + self.moved_sd**2) * nodes
        low, high = (
            weights @ (1 / (1 + np.exp(-self.base - shift - spread))) / weights.sum()
            for shift in (0.0, effect)
        )
        return float(high - low)


Process = Normal | Binary

#: Sweeps as they are run: intervals should hold the truth in 93 to 97 of 100.
PROCESSES: dict[str, Process] = {
    "3 seeds": Normal(),
    "3 seeds, 20 items": Normal(items=(20,)),
    "4 seeds": Normal(seeds=((4, 4),)),
    "5 seeds": Normal(seeds=((5, 5),), items=(100,)),
    "two blocks, 3 seeds": Normal(seeds=((3, 3), (3, 3)), items=(100,)),
    "seeds matter most": Normal(runs_sd=(0.04, 0.04), items=(100,)),
    "items matter most": Normal(runs_sd=(0.005, 0.005), items_sd=0.3),
    "binary": Binary(),
    "binary, 5 seeds": Binary(seeds=(5, 5), blocks=1),
    "heavy-tailed items": Normal(heavy=True, seeds=((4, 4),), items=(60,)),
    "one level less stable": Normal(seeds=((4, 4), (4, 4)), runs_sd=(0.015, 0.045)),
    "texts of 1 to 9 items": Normal(items=(120,), cluster=0.1, seeds=((3, 3),)),
    "unequal blocks": Normal(seeds=((3, 5), (4, 3), (5, 2)), items=(100, 40, 70)),
}

#: Corners: what happens where the method has least to go by.
CORNERS: dict[str, Process] = {
    "nothing but noise": Normal(runs_sd=(0.0, 0.0), items_sd=0.0),
    "2 seeds": Normal(seeds=((2, 2),)),
    "3 seeds, one level less stable": Normal(runs_sd=(0.02, 0.06), items=(100,)),
    "binary near 1": Binary(base=5.0, effect=-0.7, items=50, item_sd=1.0, blocks=1),
    "binary, 20 items near 1": Binary(base=5.0, effect=-0.7, items=20, item_sd=1.0, blocks=1),
    "binary, the same item by item": Binary(
        base=4.0, run_sd=0.0, item_sd=3.0, moved_sd=3.0, effect=0.0, items=50, blocks=1
    ),
    "32 blocks": Normal(seeds=((3, 3),) * 32),
}


@dataclass(frozen=True)
class Calibration:
    """Shares of ``sweeps``; ``power`` at the effect that ``minimum_effect`` gives, where the
    process has one.
    """

    coverage: float
    false_positives: float
    width: float
    df: float
    sweeps: int


def calibrate(process: Process, sweeps: int, seed: int = 0) -> Calibration:
    """Draw ``sweeps`` sweeps with the effect and as many without."""
    rng = np.random.default_rng(seed)
    truth, null = process.truth(process.effect), process.truth(0.0)
    found = [compare(process.draw(rng, process.effect)) for _ in range(sweeps)]
    none = [compare(process.draw(rng, 0.0)) for _ in range(sweeps)]
    bounds = np.array([one.interval() for one in found])
    spread = 2 * 1.959964 * np.std([one.estimate for one in found])
    return Calibration(
        coverage=float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))),
        false_positives=float(np.mean([one.p < 0.05 for one in none]))
        if null == 0
        else float("nan"),
        width=float(np.mean(bounds[:, 1] - bounds[:, 0]) / spread) if spread else float("nan"),
        df=float(np.median([one.df for one in found])),
        sweeps=sweeps,
    )


def power(seeds: int, items: int, blocks: int, sweeps: int, seed: int = 0) -> float:
    """How often an effect as large as ``minimum_effect`` says, for power 0.8, is found."""
    process = Normal(seeds=((seeds, seeds),) * blocks, items=(items,))
    spread = Components(
        process.runs_sd[0], process.items_sd * np.sqrt(0.5 + 0.5 / blocks), process.rest_sd
    )
    effect = minimum_effect(spread, runs=seeds, items=items, blocks=blocks)
    rng = np.random.default_rng(seed)
    return float(np.mean([compare(process.draw(rng, effect)).p < 0.05 for _ in range(sweeps)]))


def _heavy(rng: np.random.Generator, size: int | tuple[int, ...]) -> Array:
    """Student's t with 3 degrees of freedom, scaled to a standard deviation of 1."""
    drawn: Array = rng.standard_t(3, size=size) / np.sqrt(3)
    return drawn


def _texts(rng: np.random.Generator, items: int) -> npt.NDArray[np.int64]:
    """The text that each item belongs to: texts have 1 to 9 items."""
    return np.repeat(np.arange(items), rng.integers(1, 10, size=items))[:items]


def rows(sweeps: int, names: list[str]) -> Iterator[list[object]]:
    for corner, processes in (("", PROCESSES), ("corner: ", CORNERS)):
        for name, process in processes.items():
            if not names or name in names:
                found = calibrate(process, sweeps)
                yield [
                    corner + name,
                    100 * found.coverage,
                    100 * found.false_positives,
                    found.width,
                    found.df,
                ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="processes; by default all")
    parser.add_argument(
        "--sweeps",
        type=int,
        default=5000,
        help="simulated sweeps per process, with the effect and without it each",
    )
    args = parser.parse_args()
    error = 100 * np.sqrt(0.05 * 0.95 / args.sweeps)
    for line in table_lines(
        ["process", "coverage %", "false positives %", "width", "df"], rows(args.sweeps, args.names)
    ):
        print(line)
    print(
        f"\n{args.sweeps} sweeps each: a share of 5 or 95 % has a standard error of {error:.1f} %"
    )
    if not args.names:
        grid = [(3, 50, 1), (3, 100, 2), (5, 100, 1), (10, 200, 2)]
        print("\nfound, of effects as large as the minimum effect at power 80 %:")
        for seeds, items, blocks in grid:
            print(
                f"  {seeds} seeds, {items} items, {blocks} blocks: "
                f"{100 * power(seeds, items, blocks, args.sweeps):.1f} %"
            )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
