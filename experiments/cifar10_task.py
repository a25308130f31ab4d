"""CIFAR-10 as the paper trains on it, whatever the network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.data import cifar10
from experiments.data.augmentation import crop_and_flip, normalise
from experiments.data.batches import evaluation_batches, training_batches
from experiments.errors import OptionError
from experiments.training import parallel as par
from experiments.training.classification import Distillation, classification_loss, evaluator
from experiments.training.options import RunOptions, check_dtype
from experiments.training.parallel import Parallel
from experiments.training.recipe import Recipe, check_cuts, hspg_optimizer, mac_costs
from experiments.training.task import Task


@dataclasses.dataclass(frozen=True)
class Cifar10Options:
    """Which part of CIFAR-10, and in what precision.

    Attributes:
      data_dir: the folder of the data set; default: where `experiments.data.cifar10.load` looks.
      train_images: train on the first so many; None: all 50,000.
      test_images: evaluate on the first so many; None: all 10,000.
      dtype: what the network computes in; parameters and batch statistics stay float32.
      sync_batch_norm: BatchNorm normalises with the statistics of all devices' examples together;
        without, as in the paper, with those of each device's own.
    """

    data_dir: Path | None = None
    train_images: int | None = None
    test_images: int | None = None
    dtype: str = "float32"
    sync_batch_norm: bool = False

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        for name in ("train_images", "test_images"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise OptionError(f"--{name.replace('_', '-')} must be at least 1, not {count}")

    @property
    def model_fields(self) -> dict[str, Any]:
        """The fields of a model that these options decide."""
        return {"dtype": self.dtype, "axis_name": par.AXIS if self.sync_batch_norm else None}


def cifar10_task(
    model: nn.Module,
    recipe: Recipe,
    data: Cifar10Options,
    run: RunOptions,
    parallel: Parallel,
    variables: Callable[[int], Any] | None = None,
    teacher: tuple[nn.Module, Any] | None = None,
) -> Task:
    """Training a network on CIFAR-10: random crops and flips, ImageNet's mean and deviation.

    Args:
      model: the network.
      recipe: its hyperparameters.
      data: which data.
      run: the run's options.
      parallel: the devices.
      variables: from a seed to initial variables; default: the model's own initialisation.
      teacher: a trained network and its variables, for a recipe with ``distillation``.

    Raises:
      OptionError: if the recipe wants to learn from a network and there is none, or if cutting
        would change the training.
    """
    par.check_batch_size(parallel, recipe.batch_size, run.accumulate)
    check_cuts(recipe, run.shrink_every)
    train = cifar10.load("train", data.data_dir).first(data.train_images)
    test = cifar10.load("test", data.data_dir).first(data.test_images)
    steps_per_epoch = max(len(train) // recipe.batch_size, 1)

    uncropped_from = None
    if recipe.uncropped_epochs:
        cropped_epochs = max(recipe.epochs - recipe.uncropped_epochs, 0)
        uncropped_from = cropped_epochs * steps_per_epoch * recipe.batch_size

    def augmented(batch: Any) -> jax.Array:
        images, positions = batch["image"], batch["position"]
        return normalise(crop_and_flip(images, positions, run.seed, uncropped_from=uncropped_from))

    def batches(start: int) -> Iterator[Any]:
        arrays = {"image": train.images, "label": train.labels}
        return training_batches(
            arrays, recipe.batch_size, run.seed, start, parallel.host, parallel.hosts
        )

    inputs = (normalise(jnp.asarray(test.images[:8])),)

    def initial(seed: int) -> Any:
        return jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)))

    return Task(
        model=model,
        variables=variables or initial,
        inputs=inputs,
        call={"train": False},
        zigs_options={},
        optimizer=hspg_optimizer(recipe, steps_per_epoch, mac_costs(model, *inputs)),
        loss=classification_loss(augmented, _distillation(recipe, teacher)),
        batches=batches,
        evaluate=cifar10_evaluator(test, parallel),
        batch_size=recipe.batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=recipe.epochs * steps_per_epoch,
    )


def _distillation(recipe: Recipe, teacher: tuple[nn.Module, Any] | None) -> Distillation | None:
    """Learning from the teacher, where the recipe has one."""
    if recipe.distillation == 0:
        return None
    if teacher is None:
        raise OptionError("--distillation needs a trained network to learn from: set it to 0")
    network, trained = teacher

    def said(inputs: jax.Array) -> jax.Array:
        logits: Any = network.apply(trained, inputs, train=False)
        return logits

    return Distillation(said, recipe.distillation, recipe.temperature)


def cifar10_evaluator(
    test: cifar10.LabelledImages, parallel: Parallel
) -> Callable[[nn.Module, Any], dict[str, float]]:
    """Scores on exactly the given test images."""
    arrays = {"image": test.images, "label": test.labels}
    # At most this many at once: a larger test batch gains nothing and fills the memory.
    batch_size = -(-min(1000, len(test)) // parallel.devices) * parallel.devices

    def batches() -> Iterator[Any]:
        return evaluation_batches(arrays, batch_size, parallel.host, parallel.hosts)

    return evaluator(lambda batch: normalise(batch["image"]), batches, parallel)
