"""ResNet-50 on CIFAR-10: the paper's third row.

``python experiments/resnet50_cifar10.py`` trains from scratch with HSPG, prunes, compares the slim
network with the full one on the whole test set, and writes ``results/resnet50_cifar10.json``.

The paper's repository reports 94.4 % top-1 with 12.8 % of the FLOPs and 8.8 % of the parameters.
Expected time, estimates: on two CPU cores seven weeks (four times the multiply-accumulates of
VGG16-BN, of which a step was measured); on one GPU or TPU chip three hours (there: ``--dtype
bfloat16 --steps-per-call 71``): 234,300 steps of 45 ms. ``--smoke`` runs the whole path in about a
minute on two cores, at a quarter of the widths (measured: 97 seconds of processor time).
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
from oto_jax.models.resnet import ResNet50_CIFAR

NAME = "resnet50_cifar10"
PAPER = Config(
    Recipe(
        epochs=300,
        batch_size=64,
        learning_rate=0.1,
        learning_rate_drops=(75, 150, 225),
        lmbda=1e-3,
        start_epoch=75,
        epsilon=0.0,
    )
)
SMOKE = smoke(PAPER, learning_rate=0.005, images=192, log_every=6)


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    return row_task(ResNet50_CIFAR, config, parallel)


def main() -> None:
    """Trains, prunes, compares."""
    run_training(NAME, parse(PAPER, SMOKE, __doc__), make_task)


if __name__ == "__main__":
    run_script(main)
