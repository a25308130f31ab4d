"""Whether a model whose attention shrinks within the heads computes what the full one does.

The layer's own attention function is not compared step by step, for `scaled_attention` makes it
take other steps. Instead the two programs are compared around a stand-in, and the function is tried
alone.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.agreement import Program, check_agreement, check_draws, check_shapes, check_steps
from oto_jax.prune.difference import worst_difference
from oto_jax.prune.plan import SOFTMAX_DEPTH, Plan, depths_of
from oto_jax.prune.softmax_depth import scaled_attention
from oto_jax.prune.values import FINE_ENOUGH, coarsest, full_precision, random_array
from oto_jax.zigs.call import Call
from oto_jax.zigs.partition import Path


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """An attention function, and what a layer called it with."""

    function: Callable[..., Any]
    call: Call


Calls = dict[Path, list[AttentionCall]]
StandIns = Callable[[Mapping[Path, int], Calls], Program]
"""Makes a program whose layers at these paths, of these full depths, call a `stand_in`."""


def check_rebuilt(
    programs: tuple[Program, Program],
    around: tuple[StandIns, StandIns],
    plan: Plan,
    arrays: Sequence[jax.ShapeDtypeStruct],
    *,
    equal_depths: bool,
) -> None:
    """Checks that a rebuilt model is the full one with some units cut out.

    Args:
      programs: of the full model and of the slim one.
      around: the same with stand-ins for attention.
      plan: what was cut, and which attention layers keep the scale of their full depth.
      arrays: the abstract inputs to compare them on.
      equal_depths: see `scaled_attention`.

    Raises:
      UnprunableModelError: if it is not, or that cannot be told.
      Exception: whatever the slim program raises when it cannot run at all.
    """
    depths = depths_of(plan.overrides)
    if not depths:
        check_agreement(*programs, plan, arrays)
        return
    check_shapes(*programs, plan, arrays)
    check_draws(programs[0], plan, arrays)
    calls: Calls = {}
    slim_calls: Calls = {}
    full, slim = around[0](depths, calls), around[1](depths, slim_calls)
    for program in (full, slim):
        program.shapes(arrays)
    for path, depth in depths.items():
        _check_function(calls.get(path, []), slim_calls.get(path, []), depth, equal_depths)
    check_steps(full, slim, plan, arrays)


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


def _check_function(
    full: Sequence[AttentionCall], slim: Sequence[AttentionCall], depth: int, equal_depths: bool
) -> None:
    """Checks by values that `scaled_attention` does for a layer's function what it promises.

    Flax's and JAX's own functions are known to take Equation 1. A user's is tried as the slim
    model calls it, on random queries, keys and values, and beside it at full depth with zeros at
    places that are drawn at random.
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
        coarse = _rounds(function, slim.call) > FINE_ENOUGH
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
    arrays = [_argument(_single(array), rng) for array in call.arrays()]
    args, kwargs = call.filled(arrays)
    kwargs.pop("module", None)
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


def _rounds(function: Callable[..., Any], call: Call) -> float:
    """The coarsest machine epsilon within a function that is given float32."""

    def fn(*arrays: Any) -> Any:
        args, kwargs = call.filled(arrays)
        kwargs.pop("module", None)
        return function(*args, **kwargs)

    return coarsest(fn, *map(_single, call.arrays()))


def _single(array: Any) -> Any:
    """The same shape, in float32 where it is of floating-point numbers."""
    floating = jnp.issubdtype(array.dtype, np.floating)
    return jax.ShapeDtypeStruct(array.shape, np.float32) if floating else array


def _scattered(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Some positions, the last among them: the first ones alone may look like a shorter axis."""
    others = rng.choice(size - 1, count - 1, replace=False) if count > 1 else np.arange(0)
    return np.sort(np.append(others, size - 1))


def _argument(array: Any, rng: np.random.Generator) -> Any:
    """A random array; of a mask's rows few hide everything, which some functions cannot take."""
    if array.dtype == np.bool_:
        return rng.random(array.shape) < 0.8
    return random_array(array, rng)
