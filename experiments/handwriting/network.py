"""The demo's network: residual, with BatchNorm, for images of 8 x 8 pixels."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, added to what comes in."""

    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.Conv(self.features, (3, 3), strides=self.strides, use_bias=False)(x)
        y = nn.Conv(self.features, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides=self.strides, use_bias=False)(x)
            x = norm()(x)
        return nn.relu(x + norm()(y))


class ResidualNet(nn.Module):
    """A residual network of several stages; each but the first halves height and width.

    Attributes:
      widths: channels of each stage.
      blocks: residual blocks in each stage.
      classes: number of outputs.
    """

    widths: tuple[int, ...]
    blocks: int
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(self.widths[0], (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                x = ResidualBlock(width, strides=2 if stage > 0 and block == 0 else 1)(x, train)
        return nn.Dense(self.classes)(x.mean((1, 2)))
