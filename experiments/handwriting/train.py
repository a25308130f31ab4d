"""The demo's training: HSPG in an optax chain, one compiled step per batch.

The steps are dispatched one by one: on a CPU, XLA runs convolutions inside a compiled loop
(``lax.scan``) about thirty times slower.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

import oto_jax
from experiments.errors import OptionError
from experiments.handwriting.images import Digits, batches, shift
from experiments.training.options import SEEDS, check_range


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Attributes:
      epochs: passes over the training images.
      start_epoch: stage 2 of HSPG begins here; from then on groups become exactly zero.
      batch_size: images in a step.
      learning_rate: at the start; falls to zero along a cosine.
      momentum: of the gradient with the group lasso in it.
      lmbda: weight of the group lasso. The paper's 1e-3 acts over 234,000 steps, this over 1,710.
      epsilon: of the half-space test; larger prunes more (the paper: 0 to 0.999).
      seed: of the split, the first weights, the order of the images and their shifts.
    """

    epochs: int = 90
    start_epoch: int = 45
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    lmbda: float = 7e-3
    epsilon: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("epochs", "batch_size"), low=1)
        check_range(self, ("start_epoch", "learning_rate", "momentum", "lmbda", "epsilon"), low=0)
        check_range(self, ("seed",), low=0, high=SEEDS)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training leaves behind.

    Attributes:
      variables: parameters and batch statistics.
      seconds: wall-clock time, compilation included.
      group_norms: after each epoch, and before the first; each of shape ``(num_groups,)``.
    """

    variables: dict[str, Any]
    seconds: float
    group_norms: list[np.ndarray]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What training carries from step to step."""

    step: jax.Array
    params: Any
    statistics: Any
    optimizer: optax.OptState


Step = Callable[[State, np.ndarray, np.ndarray], tuple[State, jax.Array]]


def train(
    recipe: Recipe,
    model: nn.Module,
    variables: dict[str, Any],
    zigs: oto_jax.ZIGs,
    digits: Digits,
) -> Trained:
    """Trains once, under a progress bar.

    Raises:
      OptionError: if a batch holds more images than there are.
    """
    start = time.perf_counter()
    tx = make_optimizer(recipe, zigs, steps_per_epoch(recipe, digits))
    step = make_step(model, tx, recipe.seed)
    params = variables["params"]
    state = State(jnp.array(0), params, variables["batch_stats"], tx.init(params))
    norms = [group_norms(params, zigs)]
    with progress_bar(recipe.epochs) as bar:
        for epoch in bar:
            for images, labels in batches(digits, recipe.batch_size, recipe.seed, epoch):
                state, loss = step(state, images, labels)
            norms.append(group_norms(state.params, zigs))
            zero = f"{np.mean(norms[-1] == 0):.1%}"
            bar.set_postfix(loss=f"{loss:.3f}", zero_groups=zero, refresh=False)
    trained = {"params": state.params, "batch_stats": state.statistics}
    return Trained(trained, time.perf_counter() - start, norms)


def progress_bar(epochs: int) -> tqdm.tqdm[int]:
    """Counts epochs; in a log file it writes a line every quarter of a minute only."""
    pause = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm.trange(epochs, unit="epoch", desc="training", mininterval=pause)


def make_optimizer(
    recipe: Recipe, zigs: oto_jax.ZIGs, steps_per_epoch: int
) -> optax.GradientTransformation:
    """HSPG behind gradient clipping; nothing comes after it, so zeros stay zero."""
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.epochs * steps_per_epoch)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        oto_jax.hspg(
            schedule,
            zigs,
            lmbda=recipe.lmbda,
            epsilon=recipe.epsilon,
            momentum=recipe.momentum,
            start_step=recipe.start_epoch * steps_per_epoch,
        ),
    )


def make_step(model: nn.Module, tx: optax.GradientTransformation, seed: int) -> Step:
    """One step of training, compiled: ``(state, images, labels) -> (state, loss)``."""

    def loss_of(params: Any, statistics: Any, images: jax.Array, labels: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": statistics}
        logits, updated = model.apply(variables, images, train=True, mutable="batch_stats")
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated["batch_stats"]

    @jax.jit
    def step(state: State, images: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
        images = shift(jax.random.fold_in(jax.random.key(seed), state.step), images)
        differentiate = jax.value_and_grad(loss_of, has_aux=True)
        (loss, statistics), gradients = differentiate(
            state.params, state.statistics, images, labels
        )
        updates, optimizer = tx.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, statistics, optimizer), loss

    return step


def steps_per_epoch(recipe: Recipe, digits: Digits) -> int:
    """How many whole batches the training images make."""
    steps = len(digits.train_images) // recipe.batch_size
    if not steps:
        raise OptionError(
            f"--batch-size {recipe.batch_size} is more than the {len(digits.train_images)} training"
            " images; choose a smaller one"
        )
    return steps


def group_norms(params: Any, zigs: oto_jax.ZIGs) -> np.ndarray:
    """The Euclidean norm of every group, of shape ``(zigs.num_groups,)``."""
    squares = np.zeros(1 + zigs.num_groups)  # first the entries that are in no group: number -1
    for array, numbers in zip(jax.tree.leaves(params), jax.tree.leaves(zigs.masks), strict=True):
        entries = np.square(np.asarray(array, np.float64))
        slots = 1 + np.broadcast_to(numbers, entries.shape)
        squares += np.bincount(slots.ravel(), entries.ravel(), minlength=len(squares))
    return np.sqrt(squares[1:])
