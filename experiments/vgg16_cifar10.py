"""VGG16 on CIFAR-10: the paper's first row.

``python experiments/vgg16_cifar10.py`` trains from scratch with HSPG, prunes, compares the slim
network with the full one on the whole test set, and writes ``results/vgg16_cifar10.json``.

The paper's repository reports 91.0 % top-1 with 16.3 % of the FLOPs and 2.5 % of the parameters.
Expected time: eleven days on two CPU cores (from VGG16-BN's 8.4 s of processor time a step). On one
GPU or TPU chip an hour, an estimate: 234,300 steps of 15 ms, with ``--dtype bfloat16
--steps-per-call 71``. ``--smoke`` runs the whole path in about a minute on two cores, at a quarter
of the widths (measured: 45 s of processor time).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.cifar10_row import Config, row_task, smoke
from experiments.training.parallel import Parallel
from experiments.training.recipe import Recipe
from experiments.training.script import parse, run_script, run_training
from experiments.training.task import Task
from oto_jax.models.vgg import VGG16

NAME = "vgg16_cifar10"
PAPER = Config(
    Recipe(
        epochs=300,
        batch_size=64,
        learning_rate=0.1,
        learning_rate_drops=(75, 150, 225),
        lmbda=1e-3,
        start_epoch=75,
        epsilon=0.0,
        dense_epsilon=0.99,
    )
)
SMOKE = smoke(PAPER, learning_rate=0.02, images=512, log_every=8)


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    return row_task(VGG16, config, parallel)


def main() -> None:
    """Trains, prunes, compares."""
    run_training(NAME, parse(PAPER, SMOKE, __doc__), make_task)


if __name__ == "__main__":
    run_script(main)
