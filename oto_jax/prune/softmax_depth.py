"""Attention whose head dimension shrinks keeps the scale of its scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from oto_jax.prune.plan import SOFTMAX_DEPTH


@functools.lru_cache(maxsize=1024)
def scaled_attention(
    attention_fn: Callable[..., Any], depth: int, equal_depths: bool = False
) -> Callable[..., Any]:
    """``attention_fn`` with scores over ``sqrt(depth)`` whatever the queries' own depth is.

    It divides by the square root of the depth it sees (Vaswani et al. 2017, Equation 1); the
    queries are scaled so that the quotient is what it was at the full depth.

    Args:
      attention_fn: called with queries ``(..., length, heads, head_dim)`` first.
      depth: the full head dimension.
      equal_depths: pad queries and keys, or values, with zeros to the larger of their depths, for
        an ``attention_fn`` that takes one depth only (as `jax.nn.dot_product_attention`).

    Returns:
      The same function for the same arguments, so that modules that hold it stay equal.

    Example:
      >>> import flax.linen as nn
      >>> q = jnp.ones((1, 2, 1, 4))
      >>> full = nn.dot_product_attention(q.at[..., 2:].set(0), q, q)
      >>> attend = scaled_attention(nn.dot_product_attention, 4)
      >>> bool(jnp.allclose(attend(q[..., :2], q[..., :2], q), full))
      True
    """
    if hasattr(attention_fn, SOFTMAX_DEPTH):
        return attention_fn

    @functools.wraps(attention_fn)
    def attend(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        wide = max(query.shape[-1], value.shape[-1]) if equal_depths else query.shape[-1]
        query = _padded(query, wide) * jnp.asarray(math.sqrt(wide / depth), query.dtype)
        wide_value = _padded(value, wide) if equal_depths else value
        mixed = attention_fn(query, _padded(key, wide), wide_value, *args, **kwargs)
        return mixed[..., : value.shape[-1]]

    setattr(attend, SOFTMAX_DEPTH, depth)
    return attend


def _padded(array: jax.Array, depth: int) -> jax.Array:
    missing = depth - array.shape[-1]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array
