"""Attention whose head dimension shrinks keeps the scale of its scores."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.difference import full_precision, worst_difference
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


@functools.lru_cache(maxsize=1024)
def stand_in(depth: int) -> Callable[..., Any]:
    """Attention at its simplest, with scores over ``sqrt(depth)``, for two programs to be compared.

    Around it they take the same steps whatever the depths are, and they read the same arrays. It
    counts as a `scaled_attention`.
    """

    def attend(
        query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **_: Any
    ) -> Any:
        key, value = (_for_heads(array, query.shape[-2]) for array in (key, value))
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / math.sqrt(depth)
        scores = scores if bias is None else scores + bias
        scores = scores if mask is None else jnp.where(mask, scores, -1e9)
        return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value)

    setattr(attend, SOFTMAX_DEPTH, depth)
    return attend


def _for_heads(array: Any, heads: int) -> Any:
    """Keys or values ``(..., length, heads, depth)``, each for several heads of queries."""
    return jnp.repeat(array, heads // array.shape[-2], axis=-2)


def check_keeps_scale(attention_fn: Callable[..., Any], depth: int, equal_depths: bool) -> None:
    """Checks by values that `scaled_attention` does for a function what it promises.

    Flax's and JAX's own functions are known to take Equation 1; a user's is tried on random
    queries, keys and values, half of whose depth is zero.

    Raises:
      UnprunableModelError: if it does not.
    """
    original = getattr(attention_fn, "__wrapped__", attention_fn)
    if original not in _known():
        _try(original, depth, equal_depths)


def _known() -> set[Any]:
    functions = {jax.nn.dot_product_attention}
    for framework in ("flax.linen", "flax.nnx"):
        module = sys.modules.get(framework)
        if module is not None:
            functions.add(module.dot_product_attention)
    return functions


@functools.lru_cache(maxsize=1024)
def _try(attention_fn: Callable[..., Any], depth: int, equal_depths: bool) -> None:
    few = max(1, depth // 2)
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 5, 3, depth)).astype(np.float32)
    query[..., few:] = 0
    attend = scaled_attention(attention_fn, depth, equal_depths)
    name = getattr(attention_fn, "__name__", repr(attention_fn))
    try:
        with full_precision(), jax.ensure_compile_time_eval():  # Whoever asks may be tracing.
            full = attention_fn(query, key, value)
            slim = attend(query[..., :few], key[..., :few], value)
    except Exception as error:
        raise UnprunableModelError(
            f"attention function {name} cannot be tried alone at half of its depth"
            f" ({type(error).__name__}: {error})"
        ) from error
    if not worst_difference(full, slim).relative <= 1e-5:
        raise UnprunableModelError(
            f"attention function {name} does not divide its scores by the square root of its"
            " queries' depth, so that its head dimension cannot shrink"
        )


def _padded(array: jax.Array, depth: int) -> jax.Array:
    missing = depth - array.shape[-1]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array
