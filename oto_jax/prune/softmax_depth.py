"""Attention whose head dimension shrinks keeps the scale of its scores."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.difference import full_precision, worst_difference
from oto_jax.prune.equations import equations
from oto_jax.prune.plan import SOFTMAX_DEPTH
from oto_jax.zigs.call import Call


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


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """An attention function, and what a layer called it with."""

    function: Callable[..., Any]
    call: Call


def stand_in(depth: int, calls: list[AttentionCall], function: Callable[..., Any]) -> Any:
    """Attention at its simplest, with scores over ``sqrt(depth)``, for two programs to be compared.

    Around it they take the same steps whatever the depths are, and they read the same arrays. It
    counts as a `scaled_attention`.

    Args:
      depth: the full head dimension.
      calls: receives what it is called with, as calls of ``function``.
      function: what it stands for.
    """

    def attend(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(
            AttentionCall(_original(function), Call.of(query, key, value, *args, **kwargs))
        )
        key, value = (_for_heads(array, query.shape[-2]) for array in (key, value))
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / math.sqrt(depth)
        for bias in (*args, *(kwargs[name] for name in sorted(kwargs))):
            if not isinstance(bias, jax.Array | np.ndarray):
                continue
            if bias.dtype == np.bool_:
                scores = jnp.where(bias, scores, -1e9)
            elif jnp.issubdtype(bias.dtype, np.inexact):
                scores = scores + bias
        return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value)

    setattr(attend, SOFTMAX_DEPTH, depth)
    # Flax passes what the signature asks for.
    attend.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return attend


def _original(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `scaled_attention` was given, where it made the function."""
    scaled = hasattr(function, SOFTMAX_DEPTH)
    return getattr(function, "__wrapped__", function) if scaled else function


def _for_heads(array: Any, heads: int) -> Any:
    """Keys or values ``(..., length, heads, depth)``, each for several heads of queries."""
    return jnp.repeat(array, heads // array.shape[-2], axis=-2)


def check_keep_scale(
    full: Sequence[AttentionCall], slim: Sequence[AttentionCall], depth: int, equal_depths: bool
) -> None:
    """Checks by values that `scaled_attention` does for functions what it promises.

    Flax's and JAX's own functions are known to take Equation 1. A user's is tried as the slim
    model calls it, on random queries, keys and values, and beside it at full depth with zeros at
    places that are drawn at random.

    Raises:
      UnprunableModelError: if it does not, or one of the two models calls them more often.
    """
    if len(full) != len(slim):
        raise UnprunableModelError(
            "the slim model calls its attention functions more, or less, often"
        )
    for one, other in zip(full, slim, strict=True):
        if not {one.function, other.function} <= _known():
            _try(one, other, depth, equal_depths)


def _known() -> set[Any]:
    functions = {jax.nn.dot_product_attention}
    for framework in ("flax.linen", "flax.nnx"):
        module = sys.modules.get(framework)
        if module is not None:
            functions.add(module.dot_product_attention)
    return functions


HALF = 0.02
"""What half precision inside an attention function explains, at a quarter of the depth."""


def _try(full: AttentionCall, slim: AttentionCall, depth: int, equal_depths: bool) -> None:
    function, name = full.function, getattr(full.function, "__name__", repr(full.function))
    attend = scaled_attention(slim.function, depth, equal_depths)
    wide_value = depth if equal_depths else full.call.args[2].shape[-1]
    few, few_values = (array.shape[-1] for array in (slim.call.args[0], slim.call.args[2]))
    try:
        coarse = _rounds_coarsely(function, slim.call)
        if coarse:
            few, few_values = max(1, depth // 4), max(1, min(depth, wide_value) // 4)
        off = _trial(function, attend, slim.call, (depth, wide_value), (few, few_values))
    except Exception as error:
        raise UnprunableModelError(
            f"attention function {name} cannot be tried alone, at another depth"
            f" ({type(error).__name__}: {error})"
        ) from error
    if not off <= (HALF if coarse else 1e-5):
        raise UnprunableModelError(
            f"attention function {name} gives something else at a smaller depth than at the full"
            " one with zeros, though its queries were scaled for it: its head dimension cannot"
            " shrink"
        )


def _trial(
    function: Callable[..., Any],
    attend: Callable[..., Any],
    call: Call,
    depths: tuple[int, int],
    few: tuple[int, int],
) -> float:
    """The worst relative difference of one call, at full depths with zeros and at the few."""
    rng = np.random.default_rng(0)
    arrays = [_random(array, rng) for array in call.arrays()]
    args, kwargs = call.filled(arrays)
    kwargs = {name: value for name, value in kwargs.items() if name != "module"}
    kept = [_scattered(size, count, rng) for size, count in zip(depths, few, strict=True)]
    places = (kept[0], kept[0], kept[1])
    narrow, wide = [], []
    for array, place, size in zip(args[:3], places, (depths[0], *depths), strict=True):
        narrow.append(rng.standard_normal((*array.shape[:-1], len(place))).astype(np.float32))
        wide.append(np.zeros((*array.shape[:-1], size), np.float32))
        wide[-1][..., place] = narrow[-1]
    with full_precision():
        expected = function(*wide, *args[3:], **kwargs)
        found = attend(*narrow, *args[3:], **kwargs)
    return worst_difference(np.asarray(expected)[..., kept[1]], found).relative


def _rounds_coarsely(function: Callable[..., Any], call: Call) -> bool:
    """Whether a function computes in half precision inside, whatever it is given."""

    def in_single(array: Any) -> Any:
        floating = jnp.issubdtype(array.dtype, np.floating)
        return jax.ShapeDtypeStruct(array.shape, np.float32) if floating else array

    def fn(*arrays: Any) -> Any:
        args, kwargs = call.filled(arrays)
        return function(*args, **{k: v for k, v in kwargs.items() if k != "module"})

    closed = jax.make_jaxpr(fn)(*map(in_single, call.arrays()))
    dtypes = {var.aval.dtype for eqn, _ in equations(closed.jaxpr) for var in eqn.outvars}
    return any(jnp.issubdtype(d, np.floating) and jnp.finfo(d).bits < 32 for d in dtypes)


def _scattered(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Some positions, the last among them: the first ones alone may look like a shorter axis."""
    others = rng.choice(size - 1, count - 1, replace=False) if count > 1 else np.arange(0)
    return np.sort(np.append(others, size - 1))


def _random(array: Any, rng: np.random.Generator) -> Any:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), array.shape)
    if array.dtype == np.bool_:
        return rng.random(array.shape) < 0.8
    if jnp.issubdtype(array.dtype, np.floating):
        return rng.standard_normal(array.shape).astype(np.float32)
    return np.zeros(array.shape, array.dtype)


def _padded(array: jax.Array, depth: int) -> jax.Array:
    missing = depth - array.shape[-1]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array
