"""Which settings of the CIFAR recipe matter: a screening of six at once, by a fractional factorial.

``python benchmarks/screening.py`` prunes the published ResNet-20 to half of its
multiply-accumulates sixteen times, from the settings of `BASE` with a different half of the six
changes of `FACTORS` in each run (a :math:`2^{6-2}` design of resolution IV, Box and Hunter,
*Technometrics* 1961: no change's effect is mixed with another's, or with that of two together). So
each run says something of every change: its effect is the difference of the mean accuracy of the
eight runs with it and of the eight without. How far chance moves such a difference is told by the
nine contrasts of the design that belong to no change alone. `OTHERS` are runs beside the design.

The sixteen have seeds of their own, which no row of docs/results.md has. All are runs of
``experiments/resnet_cifar10.py``, in ``runs/``; their result files go to ``--folder``. Those that
are there are not run again, and one that was stopped goes on. It prints the effects and writes
``results/screening.json``. Expected: a quarter of an hour on one large GPU with ``--jobs 13
--steps-per-call 39``, most of a day on two cores; ``--only-collect`` runs nothing and tells which
runs are missing.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.results import ROOT, read_results, write_results
from experiments.training.script import run_script

BASE = (
    "--learning-rate 0.02 --weight-decay 1e-4 --temperature 4 --uncropped-epochs 0"
    " --target-epochs 3 --lmbda-drops 3 --base sgd --momentum 0.9"
)
FACTORS = {
    "learning rate 0.05 instead of 0.02": "--learning-rate 0.05",
    "weight decay 5e-4 instead of 1e-4": "--weight-decay 5e-4",
    "distilled at temperature 2 instead of 4": "--temperature 2",
    "the last two epochs without crops": "--uncropped-epochs 2",
    "all groups gone after one epoch instead of three": "--target-epochs 1 --lmbda-drops 1",
    "Nesterov's momentum": "--base nesterov",
}
CHOSEN = "--weight-decay 5e-4 --uncropped-epochs 2 --base nesterov"
MUON = "--base muon --momentum 0.95"
# By name: what is changed, and the seeds; a name is also that of the run.
OTHERS: Mapping[str, tuple[str, str, tuple[int, ...]]] = {
    "muon0": ("Muon, learning rate 0.004", f"{MUON} --learning-rate 0.004", (30,)),
    "muon1": ("Muon, learning rate 0.01", f"{MUON} --learning-rate 0.01", (31,)),
    "muon2": ("Muon, learning rate 0.03", f"{MUON} --learning-rate 0.03", (32,)),
    "chosen_temperature8": (
        "the chosen settings, distilled at temperature 8",
        f"{CHOSEN} --temperature 8",
        (0, 1, 2),
    ),
    "chosen_muon": (
        "the chosen settings, Muon at learning rate 0.03",
        f"{CHOSEN} {MUON} --learning-rate 0.03",
        (0, 1, 2),
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How to screen.

    Attributes:
      jobs: runs side by side.
      steps_per_call: training steps compiled into one call; many, on a GPU.
      only_collect: run nothing; read the runs that are there.
      folder: result files of the runs.
      results: the result file of the screening.
    """

    jobs: int = 1
    steps_per_call: int = 1
    only_collect: bool = False
    folder: Path = ROOT / "runs" / "screening"
    results: Path = ROOT / "results" / "screening.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      name: of its folder and of its result file.
      changes: options that differ from `BASE`.
      seed: its seed.
    """

    name: str
    changes: str
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """What a result file of it says of the settings that the screening is about."""
        words = f"{BASE} {self.changes}".split()
        given = dict(zip(words[::2], words[1::2], strict=True))  # of two, the later
        return {name[2:].replace("-", "_"): _value(text) for name, text in given.items()}

    def command(self, config: Config) -> list[str]:
        """How it is run."""
        options = f"{BASE} {self.changes} --seed {self.seed} --name {self.name} --evaluate-every 10"
        script = ROOT / "experiments" / "resnet_cifar10.py"
        calls = ["--steps-per-call", str(config.steps_per_call)]
        return [sys.executable, str(script), "--depth", "20", *calls, *options.split()]

    def finish(self, config: Config) -> None:
        """Runs it, and puts its result file into the folder."""
        # Side by side, none may take most of a GPU's memory for itself.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        subprocess.run(self.command(config), check=True, env=environment)
        config.folder.mkdir(parents=True, exist_ok=True)
        shutil.move(ROOT / "results" / f"{self.name}.json", self.file(config))

    def file(self, config: Config) -> Path:
        """Its result file."""
        return config.folder / f"{self.name}.json"


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def design() -> list[tuple[int, ...]]:
    """For each run, which of the six changes it has (1) and has not (0).

    The first four take every combination; the other two are sums of three of them, modulo 2.
    """
    return [
        (a, b, c, d, (a + b + c) % 2, (b + c + d) % 2)
        for a, b, c, d in itertools.product((0, 1), repeat=4)
    ]


def runs() -> list[Run]:
    """All runs: the design's, then the others."""
    options = list(FACTORS.values())
    of_design = [
        Run(f"screening_{number}", " ".join(itertools.compress(options, row)), 10 + number)
        for number, row in enumerate(design())
    ]
    others = [
        Run(f"screening_{name}" + (f"_seed{seed}" if len(seeds) > 1 else ""), changes, seed)
        for name, (_, changes, seeds) in OTHERS.items()
        for seed in seeds
    ]
    return of_design + others


def effects(rows: Sequence[Sequence[int]], scores: Sequence[float]) -> tuple[list[float], float]:
    """Each change's effect, and the standard error that all effects have.

    Args:
      rows: the design, orthogonal: which changes each run has.
      scores: of the runs.

    Returns:
      Differences of the means with and without each change; the standard error is what is left of
      the scores' spread once the effects are taken out, with ``runs - 1 - changes`` degrees of
      freedom.
    """
    count, changes = len(rows), len(rows[0])
    mean = statistics.fmean(scores)
    found = []
    for column in range(changes):
        signs = [1 if row[column] else -1 for row in rows]
        found.append(2 * statistics.fmean(s * y for s, y in zip(signs, scores, strict=True)))
    explained = (mean + sum((x if row[i] else -x) / 2 for i, x in enumerate(found)) for row in rows)
    left = sum((y - fit) ** 2 for y, fit in zip(scores, explained, strict=True))
    variance = left / (count - 1 - changes)
    return found, math.sqrt(4 * variance / count)


def collect(config: Config) -> dict[str, Any]:
    """Reads the runs' result files.

    Raises:
      SystemExit: if one is missing, or is of another run.
    """
    found = []
    for run in runs():
        if not run.file(config).exists():
            sys.exit(f"{run.file(config)} is missing: {shlex.join(run.command(config)[1:])}")
        results = read_results(run.file(config))
        recipe = {**results["config"]["recipe"], "seed": results["seed"]}
        recipe["lmbda_drops"] = recipe["lmbda_drops"][0]
        for name, value in {**run.settings, "seed": run.seed}.items():
            if recipe[name] != value:
                sys.exit(f"{run.file(config)} has {name} {recipe[name]}, not {value}")
        found.append(
            {
                "name": run.name,
                "seed": results["seed"],
                "top1": results["slim_test"]["top1"],
                "kept_macs": results["macs"]["kept"],
                "kept_parameters": results["parameters"]["kept"],
                "settings": run.settings,
                "commit": results["commit"],
                "versions": results["versions"],
                "hardware": results["hardware"],
                "training_minutes": results["training_minutes"],
                "command": results["command"],
            }
        )
    return summary(found)


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The effects, the other runs' accuracy, and what every run was."""
    rows = design()
    top1 = {run["name"]: run["top1"] for run in found}
    sizes, error = effects(rows, [run["top1"] for run in found[: len(rows)]])
    others = {
        label: [score for name, score in top1.items() if name.startswith(f"screening_{key}")]
        for key, (label, _, _) in OTHERS.items()
    }
    return {
        "mean_top1": statistics.fmean(run["top1"] for run in found[: len(rows)]),
        "effects": dict(zip(FACTORS, sizes, strict=True)),
        "standard_error": error,
        "others": others,
        "runs": list(found),
    }


def report(figures: Mapping[str, Any]) -> None:
    """Prints effects and other runs."""
    print(f"\nmean of the design's sixteen runs: {figures['mean_top1']:.2f} %; effects, in points")
    for name, effect in figures["effects"].items():
        print(f"  {effect:+6.2f}  {name}")
    print(f"  standard error of each: {figures['standard_error']:.2f}\nother runs, top-1")
    for name, scores in figures["others"].items():
        print(f"  {statistics.fmean(scores):6.2f}  {name} ({len(scores)} seeds)")


def main(config: Config) -> None:
    """Runs what is missing, then prints and writes."""
    missing = [] if config.only_collect else [r for r in runs() if not r.file(config).exists()]
    with concurrent.futures.ThreadPoolExecutor(config.jobs) as pool:
        done = pool.map(lambda run: run.finish(config), missing)
        for _ in tqdm(done, total=len(missing), unit="run", disable=not missing):
            pass
    figures = collect(config)
    report(figures)
    write_results(config.results, figures, seed=0)


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,))))
