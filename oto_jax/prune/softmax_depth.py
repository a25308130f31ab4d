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
def scaled_attention(attention_fn: Callable[..., Any], depth: int) -> Callable[..., Any]:
    """``attention_fn`` with scores over ``sqrt(depth)`` whatever the queries' own depth is.

    It divides by the square root of the depth it sees (Vaswani et al. 2017, Equation 1); the
    queries are scaled so that the quotient is what it was at the full depth.

    Args:
      attention_fn: called with queries ``(..., length, heads, head_dim)`` first.
      depth: the full head dimension.

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
    def attend(query: jax.Array, *args: Any, **kwargs: Any) -> Any:
        factor = math.sqrt(query.shape[-1] / depth)
        return attention_fn(query * jnp.asarray(factor, query.dtype), *args, **kwargs)

    setattr(attend, SOFTMAX_DEPTH, depth)
    return attend
