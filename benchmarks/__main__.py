"""What mosweep costs, against yardsticks measured in the same run: ``python -m benchmarks [NAME …]
[--runs N] [--full]``.

All figures are CPU seconds of whole process trees (user and system), medians over interleaved runs.
The bare Hydra yardstick of 1,000 jobs takes two minutes a run; without ``--full`` it runs 100 jobs
and is multiplied by ten, which flatters Hydra slightly.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MOSWEEP = [sys.executable, "-m", "mosweep"]
BARE = [sys.executable, str(HERE / "bare_hydra" / "app.py")]
DRY = ["backend=dummy", "tracking=none", "experiment.name=bench"]


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds, and the largest resident size of one process in MB."""

    cpu: float
    wall: float
    mb: float


def measure(command: Sequence[str], folder: Path, status: int = 0) -> Cost:
    """Run ``command`` in a process that reports what its whole tree cost."""
    code = (
        "import json, resource, subprocess, sys, time\n"
        "t = time.perf_counter()\n"
        "with open('bench.log', 'a') as log:\n"
        "    done = subprocess.run(sys.argv[1:], stdout=log, stderr=log, "
        "stdin=subprocess.DEVNULL)\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, u.ru_utime + u.ru_stime, time.perf_counter() - t, "
        "u.ru_maxrss / 1024]))\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONDONTWRITEBYTECODE", "MOSWEEP_HOME")
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    returned, cpu, wall, mb = json.loads(done.stdout)
    if returned != status:
        raise SystemExit(
            f"{' '.join(command)} ended with "
            f"{returned}:\n{(folder / 'bench.log').read_text()[-2000:]}"
        )
    return Cost(cpu, wall, mb)


class Bench:
    """Interleaves the runs of several commands and compares medians."""

    def __init__(self, runs: int, full: bool) -> None:
        self.runs, self.full = runs, full
        self.root = Path(tempfile.mkdtemp(prefix="mosweep-bench-"))
        self.failed = False

    def interleaved(
        self, commands: dict[str, Callable[[Path], Cost]], runs: int | None = None
    ) -> dict[str, Cost]:
        """Median cost of each command, every run of each in a fresh folder, in turns.

        Nothing is deleted in between: ext4 looks hard for inodes that were not freed a moment ago.
        """
        costs: dict[str, list[Cost]] = {name: [] for name in commands}
        for run in range(runs or self.runs):
            for name, command in commands.items():
                folder = Path(tempfile.mkdtemp(dir=self.root, prefix=f"{run}-"))
                costs[name].append(command(folder))
        return {
            name: Cost(
                *(
                    statistics.median(getattr(cost, field) for cost in found)
                    for field in ("cpu", "wall", "mb")
                )
            )
            for name, found in costs.items()
        }

    def verdict(self, what: str, value: float, limit: float, unit: str = "×") -> None:
        """Print one comparison; remember if it misses."""
        self.failed |= value > limit
        print(
            f"{'ok  ' if value <= limit else 'MISS'} {what:<72} {value:8.3f} {unit}  (limit "
            f"{limit:g})",
            flush=True,
        )


def sweep(trials: int, *more: str) -> list[str]:
    """A command of so many dummy trials of two stages."""
    return [
        *MOSWEEP,
        "-m",
        *DRY,
        "model=tiny,tiny-wide",
        "lora.rank=4,64",
        f"seed=range({trials // 4})",
        *more,
    ]


def bare(jobs: int) -> list[str]:
    """The same number of bare Hydra jobs that do nothing."""
    return [
        *BARE,
        "-m",
        "model=tiny,small",
        "lora.rank=4,64",
        f"seed=range({jobs // 4})",
        "hydra/launcher=basic",
    ]


def orchestration(bench: Bench) -> None:
    """(a), (b) and (c): cold and cached sweeps against bare Hydra."""

    def cold_then_cached(trials: int, cached: list[Cost]) -> Callable[[Path], Cost]:
        def run(folder: Path) -> Cost:
            first = measure(sweep(trials), folder)
            cached.append(measure(sweep(trials), folder))
            return first

        return run

    cached_1000: list[Cost] = []
    yard = 1000 if bench.full else 100
    costs = bench.interleaved(
        {
            "bare 100": lambda folder: measure(bare(100), folder),
            "mosweep 100": lambda folder: measure(sweep(100), folder),
            "mosweep 1000": cold_then_cached(1000, cached_1000),
            "mlflow 1000": lambda folder: measure(
                [word for word in sweep(1000) if word != "tracking=none"], folder
            ),
            "mlflow loop": lambda folder: measure(
                [sys.executable, str(HERE / "mlflow_loop.py"), "1000"], folder
            ),
            **({"bare 1000": lambda folder: measure(bare(1000), folder)} if bench.full else {}),
        }
    )
    hydra = costs["bare 1000"].cpu if bench.full else 10 * costs["bare 100"].cpu
    again = statistics.median(cost.cpu for cost in cached_1000)
    print(
        f"bare Hydra: 100 jobs {costs['bare 100'].cpu:.2f} s, 1,000 jobs {hydra:.1f} "
        f"s{'' if yard == 1000 else ' (ten times the former)'}"
    )
    print(
        f"mosweep: 100 cold {costs['mosweep 100'].cpu:.2f} s, 1,000 cold "
        f"{costs['mosweep 1000'].cpu:.2f} s, cached {again:.2f} s"
    )
    print(
        f"with MLflow: 1,000 cold {costs['mlflow 1000'].cpu:.2f} s; bare MLflow loop "
        f"{costs['mlflow loop'].cpu:.2f} s"
    )
    bench.verdict("(a) 1,000 trials cold / bare Hydra", costs["mosweep 1000"].cpu / hydra, 1 / 25)
    bench.verdict(
        "(a) 100 trials cold / bare Hydra", costs["mosweep 100"].cpu / costs["bare 100"].cpu, 1 / 10
    )
    bench.verdict(
        "(a) 1,000 trials with MLflow / bare Hydra", costs["mlflow 1000"].cpu / hydra, 1 / 4
    )
    bench.verdict(
        "(a) 1,000 trials with MLflow / bare MLflow loop",
        costs["mlflow 1000"].cpu / costs["mlflow loop"].cpu,
        1.15,
    )
    bench.verdict("(b) 1,000 trials cached / bare Hydra", again / hydra, 1 / 100)


def snakemake(bench: Bench) -> None:
    """(b): Snakemake over 1,000 finished jobs, in an environment of its own."""
    peer = HERE.parent / ".bench-snakemake"
    if not (peer / "bin" / "snakemake").exists():
        subprocess.run([sys.executable, "-m", "venv", str(peer)], check=True)
        subprocess.run([str(peer / "bin" / "pip"), "install", "-q", "snakemake"], check=True)
    folder = Path(tempfile.mkdtemp(dir=bench.root))
    (folder / "Snakefile").write_text(
        "rule all:\n    input: expand('out/{i}.txt', i=range(1000))\n"
        "rule one:\n    output: 'out/{i}.txt'\n    run:\n        open(output[0], 'w').write('x')\n"
    )
    (folder / "out").mkdir()
    for index in range(1000):
        (folder / "out" / f"{index}.txt").write_text("x")
    command = [str(peer / "bin" / "snakemake"), "--cores", "1", "--rerun-triggers", "mtime"]
    home = Path(tempfile.mkdtemp(dir=bench.root))
    measure(sweep(1000), home)
    costs = bench.interleaved(
        {
            "snakemake": lambda _: measure(command, folder),
            "mosweep": lambda _: measure(sweep(1000), home),
        }
    )
    print(
        f"1,000 done already: snakemake {costs['snakemake'].cpu:.2f} s, mosweep "
        f"{costs['mosweep'].cpu:.2f} s"
    )
    bench.verdict("(b) cached / Snakemake", costs["mosweep"].cpu / costs["snakemake"].cpu, 1)


def scaling(bench: Bench) -> None:
    """(c): ten times the trials."""
    cached: dict[int, list[Cost]] = {1000: [], 10000: []}

    def run(trials: int) -> Callable[[Path], Cost]:
        def both(folder: Path) -> Cost:
            first = measure(sweep(trials), folder)
            cached[trials].append(measure(sweep(trials), folder))
            return first

        return both

    costs = bench.interleaved(
        {"1000": run(1000), "10000": run(10000)}, runs=max(1, bench.runs // 2)
    )
    again = {
        trials: statistics.median(cost.cpu for cost in found) for trials, found in cached.items()
    }
    memory = max(statistics.median(c.mb for c in cached[10000]), costs["10000"].mb) - min(
        costs["1000"].mb, cached[1000][0].mb
    )
    print(
        f"10,000 trials: cold {costs['10000'].cpu:.1f} s, cached {again[10000]:.1f} s, memory "
        f"grows by {memory:.0f} MB"
    )
    bench.verdict("(c) cold CPU(10,000) / CPU(1,000)", costs["10000"].cpu / costs["1000"].cpu, 11)
    bench.verdict("(c) cached CPU(10,000) / CPU(1,000)", again[10000] / again[1000], 11)
    bench.verdict("(c) memory growth", memory, 100, "MB")


def starting(bench: Bench) -> None:
    """(d): how long it takes to say anything."""
    home = Path(tempfile.mkdtemp(dir=bench.root))
    measure([*MOSWEEP, "-m", *DRY, "lora.rank=4,64"], home)
    costs = bench.interleaved(
        {
            "bare": lambda _: measure([*BARE, "--help"], home),
            "help": lambda _: measure([*MOSWEEP, "--help"], home),
            "version": lambda _: measure([*MOSWEEP, "--version"], home),
            "status": lambda _: measure([*MOSWEEP, "status"], home),
        },
        runs=2 * bench.runs + 1,
    )
    print("; ".join(f"{name} {1000 * cost.cpu:.0f} ms" for name, cost in costs.items()))
    bench.verdict("(d) --help / bare Hydra --help", costs["help"].cpu / costs["bare"].cpu, 1.3)
    bench.verdict(
        "(d) --version / bare Hydra --help", costs["version"].cpu / costs["bare"].cpu, 0.5
    )
    bench.verdict("(d) status / bare Hydra --help", costs["status"].cpu / costs["bare"].cpu, 0.5)


def reading(bench: Bench) -> None:
    """(g): a sweep of 1,000 trials and 100,000 scores of items, read."""
    home = Path(tempfile.mkdtemp(dir=bench.root))
    measure(sweep(1000), home)
    more = ["model=tiny,tiny-wide", "lora.rank=4,64", "seed=range(250,500)"]
    costs = bench.interleaved(
        {
            "summary": lambda _: measure([*MOSWEEP, "summary", "bench"], home),
            "analyze": lambda _: measure([*MOSWEEP, "analyze", "bench"], home),
            "plan": lambda _: measure([*MOSWEEP, "plan", *DRY, *more], home),
        }
    )
    print(
        "; ".join(
            f"{name} {cost.cpu:.2f} s CPU, {cost.wall:.2f} s wall, {cost.mb:.0f} MB"
            for name, cost in costs.items()
        )
    )
    bench.verdict("(g) summary of 1,000 trials, CPU", costs["summary"].cpu, 2, "s")
    bench.verdict("(g) analyze of 1,000 trials of 100 items, CPU", costs["analyze"].cpu, 20, "s")
    bench.verdict(
        "(g) plan of 1,000 trials more, with what they cost and will tell, CPU",
        costs["plan"].cpu,
        4,
        "s",
    )
    bench.verdict(
        "(g) the most memory of these", max(cost.mb for cost in costs.values()), 1000, "MB"
    )


def demo(bench: Bench) -> None:
    """(e): the real demo against its own ``tune run`` processes."""

    def tune(folder: Path, home: Path) -> Cost:
        costs = []
        for native in sorted(home.glob("multirun/demo/*/finetune/torchtune.yaml")):
            out = Path(tempfile.mkdtemp(dir=folder))
            text = native.read_text()
            for line in text.splitlines():
                name, _, value = line.strip().partition(": ")
                if name in ("output_dir", "log_dir"):
                    text = text.replace(value, str(out) + ("/logs" if name == "log_dir" else ""))
                if name == "data_files":
                    data = (
                        home
                        / "multirun"
                        / "demo"
                        / native.parts[-3]
                        / "data"
                        / "data"
                        / "train.jsonl"
                    )
                    text = text.replace(value, str(data))
            config = out / "native.yaml"
            config.write_text(text)
            environment = [
                "env",
                "OMP_NUM_THREADS=1",
                "HF_HUB_OFFLINE=1",
                "TOKENIZERS_PARALLELISM=false",
                f"HF_DATASETS_CACHE={out}",
            ]
            command = [
                sys.executable,
                "-m",
                "torchtune._cli.tune",
                "run",
                "lora_finetune_single_device",
                "--config",
                str(config),
            ]
            costs.append(measure([*environment, *command], out))
        return Cost(
            sum(cost.cpu for cost in costs),
            sum(cost.wall for cost in costs),
            max(cost.mb for cost in costs),
        )

    whole, bare_tune, warm = [], [], []
    for _ in range(max(1, bench.runs // 2)):
        home = Path(tempfile.mkdtemp(dir=bench.root))
        command = [*MOSWEEP, "-m", "model=tiny,tiny-wide", "lora.rank=4,64", "experiment.name=demo"]
        whole.append(measure(command, home))
        bare_tune.append(tune(Path(tempfile.mkdtemp(dir=bench.root)), home))
        for kind in ("finetune", "eval"):  # the base models stay
            for record in (home / ".mosweep" / "store" / "records").glob("*/*.json"):
                if f'"kind":"{kind}"' in record.read_text():
                    record.unlink()
        warm.append(measure(command, home))
    cpu = {
        name: statistics.median(c.cpu for c in found)
        for name, found in (("whole", whole), ("tune", bare_tune), ("warm", warm))
    }
    wall = statistics.median(cost.wall for cost in whole)
    print(
        f"demo {cpu['whole']:.1f} s CPU ({wall:.0f} s wall), with bases at hand "
        f"{cpu['warm']:.1f} s, tune run alone {cpu['tune']:.1f} s"
    )
    bench.verdict(
        "(e) demo, base models made too / its tune run processes", cpu["whole"] / cpu["tune"], 1.5
    )
    bench.verdict(
        "(e) demo, base models at hand / its tune run processes", cpu["warm"] / cpu["tune"], 1.5
    )


def slurm(bench: Bench) -> None:
    """(f): 500 dry trials of two stages in two resource classes on a real Slurm (``make slurm``),
    against bare arrays of no-ops.
    """
    if (
        shutil.which("sbatch") is None
        or subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode
    ):
        print("skipped: no Slurm answers here; make slurm starts one")
        return
    trials = 500
    script = [sys.executable, str(HERE / "slurm_submission.py")]

    def submission(who: str) -> Callable[[Path], Cost]:
        def run(folder: Path) -> Cost:
            done = subprocess.run(
                [*script, who, str(trials)], cwd=folder, capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout)
            subprocess.run(["scancel", *found["arrays"]], check=True)
            _drained()
            return Cost(found["cpu"], 0, 0)

        return run

    def no_ops(line: str) -> Callable[[Path], Cost]:
        def run(folder: Path) -> Cost:
            started = time.perf_counter()
            for memory in ("100M", "150M"):
                behind = ""
                for _ in range(2):
                    options = (
                        f"#SBATCH --array=0-{trials // 2 - 1} --mem={memory} -c 1 -p cpu -t 60 "
                        f"-o /dev/null {behind}"
                    )
                    (folder / "no-op.sh").write_text(f"#!/bin/bash\n{options}\n{line}\n")
                    array = subprocess.run(
                        ["sbatch", "--parsable", "no-op.sh"],
                        cwd=folder,
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    behind = f"-d aftercorr:{array.stdout.strip()}"
            _drained()
            return Cost(0, time.perf_counter() - started, 0)

        return run

    def submitits(folder: Path) -> Cost:
        started = time.perf_counter()
        subprocess.run(
            [*script, "submitit", str(trials)], cwd=folder, capture_output=True, check=True
        )
        _drained()
        return Cost(0, time.perf_counter() - started, 0)

    factors = ["model=tiny,tiny-wide", f"seed=range({trials // 2})", "run_control_trials=false"]
    place = [
        "hydra/launcher=slurm",
        "hydra.launcher.partition=cpu",
        "hydra.launcher.cpus_per_task=1",
    ]
    memory = ["resources.models.tiny.mem=100M", "resources.models.tiny-wide.mem=150M"]
    command = [*MOSWEEP, "-m", *DRY, *factors, *place, *memory]
    costs = bench.interleaved(
        {
            "submitit's submission": submission("submitit"),
            "mosweep's submission": submission("mosweep"),
            "arrays of true": no_ops("true"),
            "arrays of python": no_ops(f"exec {sys.executable} -c pass"),
            "submitit's arrays": submitits,
            "mosweep": lambda folder: measure(command, folder),
        }
    )
    ours, theirs = costs["mosweep's submission"].cpu, costs["submitit's submission"].cpu
    walls = {
        name: costs[name].wall
        for name in ("arrays of true", "arrays of python", "submitit's arrays", "mosweep")
    }
    print(f"handing in 1,000 jobs: submitit {theirs:.2f} s, mosweep {ours:.2f} s CPU")
    print(
        f"until all are done: {', '.join(f'{name} {wall:.0f} s' for name, wall in walls.items())}"
    )
    bench.verdict("(f) submission CPU / submitit's map_array", ours / theirs, 2)
    bench.verdict(
        "(f) command to table / the same arrays of `true`",
        walls["mosweep"] / walls["arrays of true"],
        1.15,
    )
    bench.verdict(
        "(f) command to table / those of `python -c pass`",
        walls["mosweep"] / walls["arrays of python"],
        1.15,
    )
    bench.verdict(
        "(f) command to table / submitit's arrays of no-ops",
        walls["mosweep"] / walls["submitit's arrays"],
        1.15,
    )


def _drained() -> None:
    """Wait until Slurm has none of our jobs."""
    while subprocess.run(
        ["squeue", "-h", "--me"], capture_output=True, text=True, check=True
    ).stdout.strip():
        time.sleep(0.2)


ALL: dict[str, Callable[[Bench], None]] = {
    f.__name__: f for f in (starting, orchestration, snakemake, scaling, reading, demo, slurm)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; default: all"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--full", action="store_true", help="run the bare Hydra yardstick with all 1,000 jobs"
    )
    args = parser.parse_args()
    bench = Bench(args.runs, args.full)
    try:
        for name in args.names or ALL:
            started = time.monotonic()
            print(f"── {name}")
            ALL[name](bench)
            print(f"   ({time.monotonic() - started:.0f} s)")
    finally:
        shutil.rmtree(bench.root, ignore_errors=True)
    sys.exit(bench.failed)


if __name__ == "__main__":
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    main()
