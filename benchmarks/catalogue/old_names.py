"""Names that JAX has done away with and that some packages still use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@functools.cache
def restore_old_names() -> None:
    """Let JAX answer to ``KeyArray``, ``clip(a_min, a_max)`` and ``reshape(newshape)`` again."""
    if not hasattr(jax.random, "KeyArray"):
        jax.random.KeyArray = jax.Array  # type: ignore[attr-defined]
    jnp.clip = _renamed(jnp.clip, a_min="min", a_max="max")
    jnp.reshape = _renamed(jnp.reshape, newshape="shape")


def _renamed(fn: Callable[..., Any], **names: str) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **{names.get(name, name): value for name, value in kwargs.items()})

    return wrapper
