"""The convolutions and dense layers of a VGG alone, without what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

IMAGE = 32  # pixels; each stage ends by halving them


def layers_alone(params: Any, batch: int) -> Callable[[], Any]:
    """All layers of a VGG in one compiled call, each on an input of its own.

    Args:
      params: the parameters of a `oto_jax.models.vgg.VGG`.
      batch: images.
    """
    layers = kernels(params, batch)
    fn = jax.jit(lambda pairs: [_layer(x, kernel) for x, kernel in pairs])
    return lambda: fn(layers)


def _layer(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if kernel.ndim == 2:
        return x @ kernel
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def kernels(params: Any, batch: int) -> list[tuple[jax.Array, jax.Array]]:
    """A VGG's kernels with inputs as large as what each is applied to."""
    pairs = []
    for name, layer in sorted(params.items()):
        kernel = jnp.asarray(layer["kernel"]) if "kernel" in layer else None
        if kernel is None:
            continue
        if kernel.ndim == 4:
            size = IMAGE >> (int(name.removeprefix("conv")[0]) - 1)
            shape: tuple[int, ...] = (batch, size, size, kernel.shape[2])
        else:
            shape = (batch, kernel.shape[0])
        pairs.append((jnp.full(shape, 0.5, jnp.float32), kernel))
    return pairs
