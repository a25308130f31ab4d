"""A row of the paper's CIFAR-10 table: a network, trained from scratch by its recipe and pruned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn

from experiments.cifar10_task import Cifar10Options, cifar10_task
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.recipe import Recipe
from experiments.training.task import Task
from experiments.widths import quarter_width


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains a network on CIFAR-10 with HSPG and prunes it; the defaults are the paper's.

    Attributes:
      recipe: hyperparameters.
      data: the data and how the network computes.
      run: how the run is carried out.
    """

    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    data: Cifar10Options = dataclasses.field(default_factory=Cifar10Options)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)


def smoke(paper: Config, learning_rate: float, images: int, log_every: int) -> Config:
    """The row in a minute: three epochs on few images, half of the groups gone at the end.

    Args:
      paper: the row itself.
      learning_rate: at which so short a training makes the loss fall.
      images: how many to train on.
      log_every: steps between lines of metrics.
    """
    recipe = dataclasses.replace(
        paper.recipe,
        epochs=3,
        batch_size=32,
        learning_rate=learning_rate,
        learning_rate_drops=(),
        lmbda=1e-3,
        start_epoch=1,
        momentum=0.9,
        target_group_sparsity=0.5,
    )
    return Config(
        recipe=recipe,
        data=Cifar10Options(train_images=images, test_images=images),
        run=RunOptions(smoke=True, log_every=log_every, checkpoint_every=2 * log_every),
    )


def row_task(network: Callable[..., nn.Module], config: Config, parallel: Parallel) -> Task:
    """What a row trains.

    Args:
      network: makes the model from `Cifar10Options.model_fields`.
      config: the row; a smoke run takes a quarter of the widths.
      parallel: the devices.
    """
    model = network(**config.data.model_fields)
    if config.run.smoke:
        model = quarter_width(model)
    return cifar10_task(model, config.recipe, config.data, config.run, parallel)
