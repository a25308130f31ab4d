"""What it takes to try a program by values: random inputs, full precision, how much it rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.prune.equations import equations

FINE_ENOUGH = float(np.finfo(np.float32).eps)
"""Coarser arithmetic rounds by as much as one unit of many makes a difference."""


def full_precision() -> contextlib.AbstractContextManager[None]:
    """A context in which matrix products and convolutions keep all digits of their operands.

    By default a GPU multiplies float32 as TensorFloat-32 and a TPU as bfloat16, which rounds by far
    more than what the order of a sum makes out. What asks for a precision itself keeps it.
    """
    return jax.default_matmul_precision("highest")


def coarsest(fn: Callable[..., Any], *args: Any) -> float:
    """The largest machine epsilon among the floating-point values that ``fn(*args)`` computes."""
    closed = jax.make_jaxpr(fn)(*args)
    dtypes = {var.aval.dtype for eqn, _ in equations(closed.jaxpr) for var in eqn.outvars}
    eps = [float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, np.inexact)]
    return max(eps, default=FINE_ENOUGH)


def random_array(array: Any, rng: np.random.Generator) -> Any:
    """Normal numbers; zeros and ones for integers and booleans: they are valid almost anywhere.

    Args:
      array: its shape and type; floating-point numbers come in float64 where x64 is on.
      rng: where numbers come from; keys are always the same ones.
    """
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), array.shape)
    if jnp.issubdtype(array.dtype, np.inexact):
        values = rng.standard_normal(array.shape)
        return values if jax.config.read("jax_enable_x64") else values.astype(array.dtype)
    return rng.integers(0, 2, array.shape).astype(array.dtype)
