"""Small real models with their groups as `find_zigs` finds them, and batches to train them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import oto_jax


class ResidualNet(nn.Module):
    """A stream of 24 channels with two residual blocks, batch normalised."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = lambda: nn.BatchNorm(use_running_average=not train)  # noqa: E731
        x = nn.relu(norm()(nn.Conv(24, (3, 3), use_bias=False)(x)))
        for _ in range(2):
            y = nn.relu(norm()(nn.Conv(20, (3, 3), use_bias=False)(x)))
            x = nn.relu(x + norm()(nn.Conv(24, (3, 3), use_bias=False)(y)))
        return nn.Dense(5)(x.mean((1, 2)))


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(x.shape[0], -1)
        for width in (40, 30):
            x = nn.gelu(nn.Dense(width)(x))
        return nn.Dense(5)(x)


class Transformer(nn.Module):
    """One block: attention of 20 heads, and a layer of 30 hidden units."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(40)(x.reshape(x.shape[0], x.shape[1], -1))
        x = x + nn.MultiHeadDotProductAttention(20)(nn.LayerNorm()(x))
        x = x + nn.Dense(40)(nn.relu(nn.Dense(30)(nn.LayerNorm()(x))))
        return nn.Dense(5)(x.mean(1))


MODELS = {"residual": ResidualNet(), "perceptron": Perceptron(), "transformer": Transformer()}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model to train: parameters, groups, and the loss as a function of parameters and step."""

    params: Any
    zigs: oto_jax.ZIGs
    loss: Callable[[Any, jax.Array], jax.Array]


def problem(name: str, batch: int = 8) -> Problem:
    """Classify noise around five fixed images; a new batch at every step."""
    model = MODELS[name]
    centres = jax.random.normal(jax.random.key(1), (5, 6, 6, 2))
    x = jnp.zeros((1, 6, 6, 2))
    variables = model.init(jax.random.key(0), x)
    zigs = oto_jax.find_zigs(model, variables, x, train=False)

    def loss(params, step):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), step))
        labels = jax.random.randint(keys[0], (batch,), 0, 5)
        images = centres[labels] + 0.5 * jax.random.normal(keys[1], (batch, 6, 6, 2))
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        one_hot = jax.nn.one_hot(labels, 5)
        return -jnp.mean(jnp.sum(one_hot * jax.nn.log_softmax(logits), axis=1))

    return Problem(variables["params"], zigs, loss)
