"""ResNet-50 on CIFAR-10: the paper's third row.

``python experiments/resnet50_cifar10.py`` trains from scratch with HSPG, prunes, compares the slim
network with the full one on the whole test set, and writes ``results/resnet50_cifar10.json``.

The paper's repository reports 94.4 % top-1 with 12.8 % of the FLOPs and 8.8 % of the parameters.
Expected time: 300 epochs are 20 x 10^15 multiply-accumulates three times over, hours on one GPU or
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
from oto_jax.models.resnet import ResNet50_CIFAR

NAME = "resnet50_cifar10"
PAPER = Recipe(
    epochs=300,
    batch_size=64,
    learning_rate=0.1,
    learning_rate_drops=(75, 150, 225),
    lmbda=1e-3,
    start_epoch=75,
    epsilon=0.0,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains ResNet-50 on CIFAR-10 with HSPG and prunes it; the defaults are the paper's.

    Attributes:
      recipe: hyperparameters.
      data: the data and how the network computes.
      run: how the run is carried out.
    """

    recipe: Recipe = PAPER
    data: Cifar10Options = dataclasses.field(default_factory=Cifar10Options)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)


QUARTER = {
    "stem": 16,
    "streams": (64, 128, 256, 512),
    "inner": (((16, 16),) * 3, ((32, 32),) * 4, ((64, 64),) * 6, ((128, 128),) * 3),
}
SMOKE = Config(
    recipe=Recipe(
        epochs=3,
        batch_size=32,
        learning_rate=0.005,
        learning_rate_drops=(),
        start_epoch=1,
        momentum=0.9,
        target_group_sparsity=0.5,
    ),
    data=Cifar10Options(train_images=192, test_images=200),
    run=RunOptions(smoke=True, log_every=6, checkpoint_every=6),
)


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    widths = QUARTER if config.run.smoke else {}
    model = ResNet50_CIFAR(dtype=config.data.dtype, axis_name=config.data.axis_name, **widths)
    return cifar10_task(model, config.recipe, config.data, config.run, parallel)


def main() -> None:
    """Trains, prunes, compares."""
    run_training(NAME, parse(Config(), SMOKE), make_task)


if __name__ == "__main__":
    run_script(main)
