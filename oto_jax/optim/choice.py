"""Which groups to give up so that what is left fits a budget: pure functions on small arrays.

The groups of a scope form a matrix with a row per space, padded to the longest; nothing here is
larger than that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.optim.kept_cost import KeptCost
from oto_jax.zigs.partition import Space


def stack(spaces: tuple[Space, ...], vectors: Mapping[str, jax.Array], pad: float) -> jax.Array:
    """Vectors over the groups of some spaces as one matrix, padded; shape ``(spaces, longest)``."""
    longest = max(space.size for space in spaces)
    return jnp.stack(
        [
            jnp.pad(vectors[space.name], (0, longest - space.size), constant_values=pad)
            for space in spaces
        ]
    )


def unstack(spaces: tuple[Space, ...], matrix: jax.Array) -> dict[str, jax.Array]:
    """The rows of a matrix as vectors by space, without the padding."""
    return {space.name: matrix[i, : space.size] for i, space in enumerate(spaces)}


def choose(
    cost: KeptCost,
    sizes: np.ndarray,
    scores: jax.Array,
    chosen: jax.Array,
    floors: jax.Array,
    budget: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """The groups to give up: those chosen before, then the lowest scores, down to the budget.

    In each space the groups with the highest scores, as many as its floor, are never chosen. Ties
    go to the first space and group: the same choice on every device.

    Args:
      cost: what is left of the network, from the number of groups given up in each space.
      sizes: number of groups by space, shape ``(spaces,)``.
      scores: what groups are worth; NaN counts as most. Shape ``(spaces, longest)``.
      chosen: groups that are given up already, bool, likewise.
      floors: how many groups of each space stay, shape ``(spaces,)``.
      budget: the cost that may be left.
      last: whether there is no choice after this one: then groups that would overshoot the budget
        are passed over for smaller ones, so that what is left comes as near to it as can be.

    Returns:
      The groups that are given up, bool of shape ``(spaces, longest)``.
    """
    real = jnp.arange(scores.shape[1])[None, :] < sizes[:, None]
    worth = jnp.where(jnp.isnan(scores), jnp.inf, scores)
    free = real & ~chosen
    safe = free & (_ranks(jnp.where(free, -worth, jnp.inf)) < floors[:, None])
    turn = jnp.where(chosen, 0, jnp.where(free & ~safe, 1, 2))
    ranks = _ranks(turn.ravel(), worth.ravel()).reshape(scores.shape)

    def left(given_up: jax.Array) -> jax.Array:
        return cost(jnp.sum(given_up, axis=1).astype(scores.dtype), jnp)

    count = _last_above(
        lambda count: left(real & (ranks < count)),
        budget,
        jnp.sum(chosen, dtype=jnp.int32),
        jnp.sum(real & ~safe, dtype=jnp.int32),
        halvings=scores.size.bit_length() + 1,
    )
    prefix = real & (ranks < count)
    return jax.lax.cond(
        last & (left(prefix) > budget),
        lambda: _fill(cost, prefix, real & ~safe, ranks, budget),
        lambda: prefix,
    )


def _last_above(
    left: Callable[[jax.Array], jax.Array],
    budget: jax.Array,
    low: jax.Array,
    high: jax.Array,
    halvings: int,
) -> jax.Array:
    """Largest count in [low, high] that leaves the budget or more, else low: bisection."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high + 1) // 2
        enough = left(middle) >= budget
        return jnp.where(enough, middle, low), jnp.where(enough, high, jnp.maximum(middle - 1, low))

    return jax.lax.fori_loop(0, halvings, halve, (low, high))[0]


def _fill(
    cost: KeptCost, chosen: jax.Array, allowed: jax.Array, ranks: jax.Array, budget: jax.Array
) -> jax.Array:
    """Give up groups one by one, the first in rank that fits, until none brings the cost nearer."""

    def candidates(chosen: jax.Array) -> jax.Array:
        removed = jnp.sum(chosen, axis=1).astype(budget.dtype)
        left = cost(removed, jnp)
        saved = cost.savings(removed, jnp)[:, None]
        able = allowed & ~chosen & (saved > 0) & (saved < 2 * (left - budget))
        fitting = able & (saved <= left - budget)
        return jnp.where(jnp.any(fitting), fitting, able)

    def take(chosen: jax.Array) -> jax.Array:
        able = candidates(chosen)
        return chosen | (able & (ranks == jnp.min(jnp.where(able, ranks, ranks.size))))

    return jax.lax.while_loop(lambda chosen: jnp.any(candidates(chosen)), take, chosen)


def _ranks(*keys: jax.Array) -> jax.Array:
    """The rank of each entry along the last axis, by the first key, then the next, then place."""
    place = jax.lax.broadcasted_iota(jnp.int32, keys[0].shape, keys[0].ndim - 1)
    *_, order = jax.lax.sort((*keys, place), num_keys=len(keys), is_stable=True)
    return jax.lax.sort((order, place), num_keys=1)[1]


def shrinking_schedule(step: jax.Array, start: Any, steps: Any) -> jax.Array:
    """What is left of the way to the target: 1 before the window, 0 from its end on, cubic between.

    Zhu and Gupta, *To prune, or not to prune*, 2017, equation 1.

    Args:
      step: the step that is being taken, counted from 0.
      start: the first step of the window.
      steps: how many steps the way takes, at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> shrinking_schedule(jnp.array([9, 10, 11]), 10, 2).tolist()
      [1.0, 0.125, 0.0]
    """
    gone = (step + 1 - start).astype(jnp.float32) / jnp.asarray(steps, jnp.float32)
    return (1 - jnp.clip(gone, 0, 1)) ** 3
