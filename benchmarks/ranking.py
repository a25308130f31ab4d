"""Which order of giving up groups keeps a published network's accuracy: a study on real images.

``python benchmarks/ranking.py`` takes the published ResNet-20 to half of its multiply-accumulates
on CIFAR-10, five times, with the recipe of ``experiments/resnet_cifar10.py`` cut down to a few
hundred steps and without a teacher, so that nothing but the order differs:

* by the first-order Taylor score or its square, relative to the mean of the space (`oto_jax.Target`
  as it is) or per multiply-accumulate saved (``per_cost``);
* by magnitude, relative.

It prints and writes to ``results/ranking.json`` the accuracy of the slim networks on all 10,000
test images, their cross-entropy, and how many channels are left inside of blocks and in the
streams between them. A run that was stopped goes on; finished ones are kept in ``runs/ranking``.
Expected: half an hour on two cores; for a try, ``--epochs 2 --train-images 512 --test-images 500
--results /tmp/tried.json --workdir /tmp/tried``.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.cifar10_task import Cifar10Options
from experiments.resnet_cifar10 import HALF, Depth, make_task
from experiments.resnet_cifar10 import Config as RunConfig
from experiments.results import ROOT, write_results
from experiments.training.finish import prune_and_compare
from experiments.training.loop import train
from experiments.training.options import RunOptions, to_json
from experiments.training.run_folder import open_run
from experiments.training.script import run_script, start
from experiments.training.state import variables_of

ORDERS: dict[str, dict[str, Any]] = {
    "Taylor": {"saliency": "taylor", "per_cost": False},
    "squared Taylor": {"saliency": "squared_taylor", "per_cost": False},
    "Taylor, per cost": {"saliency": "taylor", "per_cost": True},
    "squared Taylor, per cost": {"saliency": "squared_taylor", "per_cost": True},
    "magnitude": {"saliency": "magnitude", "per_cost": False},
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train.

    Attributes:
      depth: of the CIFAR ResNet.
      epochs: of every run; the window is the first half of them.
      train_images: images of an epoch.
      test_images: evaluate on the first so many; None: all 10,000.
      target_macs: what is left of the multiply-accumulates.
      seed: of the order of the images and of what is drawn to augment them.
      only: orders to run instead of all; then no result file is written.
      workdir: where the runs are kept.
      results: the result file.
    """

    depth: Depth = 20
    epochs: int = 4
    train_images: int = 16_000
    test_images: int | None = None
    target_macs: float = 0.5
    seed: int = 0
    only: tuple[str, ...] = ()
    workdir: Path = ROOT / "runs" / "ranking"
    results: Path = ROOT / "results" / "ranking.json"


def run_config(config: Config, order: dict[str, Any]) -> RunConfig:
    """The experiment's own configuration."""
    recipe = dataclasses.replace(
        HALF,
        epochs=config.epochs,
        target_epochs=config.epochs // 2,
        lmbda_drops=(config.epochs // 2,),
        target_macs=config.target_macs,
        distillation=0.0,
        uncropped_epochs=0,
        **order,
    )
    data = Cifar10Options(train_images=config.train_images, test_images=config.test_images)
    options = RunOptions(seed=config.seed, checkpoint_every=100, evaluate_every=0)
    return RunConfig(depth=config.depth, recipe=recipe, data=data, run=options)


def run(config: Config, name: str) -> dict[str, Any]:
    """Trains by one order, prunes, measures."""
    of_run = run_config(config, ORDERS[name])
    parallel = start(of_run.run)
    task = make_task(of_run, parallel)
    folder = config.workdir / name.replace(", ", "_").replace(" ", "_")
    with open_run(folder, to_json(of_run)) as opened:
        trained = train(task, of_run.run, parallel, opened)
        variables = variables_of(trained.state)
        outcome = prune_and_compare(task, trained.network, variables, parallel, opened)
    inside = {s.name: s.units.count for s in outcome.pruned.plan.spaces if "conv1" in s.name}
    scores = outcome.figures["slim_test"]
    return {
        "top1": scores["top1"],
        "cross_entropy": scores["loss"],
        "kept_macs": outcome.figures["macs"]["kept"],
        "kept_parameters": outcome.figures["parameters"]["kept"],
        "channels_inside_blocks": sum(inside.values()),
        "channels_of_streams": outcome.figures["groups"]["slim"] - sum(inside.values()),
    }


def report(rows: dict[str, dict[str, Any]]) -> None:
    """Prints the figures."""
    heads = f"{'top-1':>8}{'cross-entropy':>15}{'MACs':>8}{'parameters':>12}{'inside':>8}"
    print(f"\n{'':26}{heads}{'streams':>9}")
    for name, row in rows.items():
        print(
            f"{name:26}{row['top1']:8.2f}{row['cross_entropy']:15.4f}{row['kept_macs']:8.1%}"
            f"{row['kept_parameters']:12.1%}{row['channels_inside_blocks']:8}"
            f"{row['channels_of_streams']:9}"
        )


def main(config: Config) -> None:
    """Runs, prints, writes."""
    rows = {name: run(config, name) for name in ORDERS if not config.only or name in config.only}
    report(rows)
    if not config.only:
        named = dataclasses.asdict(config).items()
        settings = {k: v for k, v in named if k not in ("only", "workdir", "results")}
        write_results(config.results, {"rows": rows, "config": settings}, seed=config.seed)


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,))))
