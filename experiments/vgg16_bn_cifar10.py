"""VGG16 with BatchNorm on CIFAR-10: the paper's second row.

``python experiments/vgg16_bn_cifar10.py`` trains from scratch with HSPG, prunes, compares the slim
network with the full one on the whole test set, and writes ``results/vgg16_bn_cifar10.json``.

The paper's repository reports 93.3 % top-1 with 26.8 % of the FLOPs and 5.5 % of the parameters.
Expected time: 300 epochs are 11 x 10^15 multiply-accumulates three times over, hours on one GPU or
TPU chip (there: ``--dtype bfloat16 --steps-per-call 71``) and weeks on two CPU cores. ``--smoke``
runs the whole path in about a minute on two cores, at a quarter of the widths.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.cifar10_task import Cifar10Options, cifar10_task
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.recipe import Recipe
from experiments.training.script import parse, run_script, run_training
from experiments.training.task import Task
from oto_jax.models.vgg import VGG16_BN

NAME = "vgg16_bn_cifar10"
PAPER = Recipe(
    epochs=300,
    batch_size=64,
    learning_rate=0.1,
    learning_rate_drops=(75, 150, 250),
    lmbda=5e-4,
    start_epoch=75,
    epsilon=0.0,
    dense_epsilon=0.9,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains VGG16-BN on CIFAR-10 with HSPG and prunes it; the defaults are the paper's.

    Attributes:
      recipe: hyperparameters.
      data: the data and how the network computes.
      run: how the run is carried out.
    """

    recipe: Recipe = PAPER
    data: Cifar10Options = dataclasses.field(default_factory=Cifar10Options)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)


QUARTER = {
    "widths": ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (128, 128, 128)),
    "hidden": (128, 128),
}
SMOKE = Config(
    recipe=Recipe(
        epochs=3,
        batch_size=32,
        learning_rate=0.02,
        learning_rate_drops=(),
        start_epoch=1,
        momentum=0.9,
        dense_epsilon=0.9,
        target_group_sparsity=0.5,
    ),
    data=Cifar10Options(train_images=512, test_images=500),
    run=RunOptions(smoke=True, log_every=8, checkpoint_every=16),
)


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    widths = QUARTER if config.run.smoke else {}
    model = VGG16_BN(dtype=config.data.dtype, axis_name=config.data.axis_name, **widths)
    return cifar10_task(model, config.recipe, config.data, config.run, parallel)


def main() -> None:
    """Trains, prunes, compares."""
    run_training(NAME, parse(Config(), SMOKE), make_task)


if __name__ == "__main__":
    run_script(main)
