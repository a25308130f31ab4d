"""`group_sparsity`: how much of a network is zero, cheap enough for every step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from oto_jax.optim.norms import grouped_leaves, nonzero_counts, squared_norms
from oto_jax.optim.zeros import projection_states
from oto_jax.zigs.partition import ZIGs


class GroupSparsity(NamedTuple):
    r"""Measures of sparsity; every leaf is a scalar array.

    Attributes:
      overall: share of groups that are zero, in [0, 1].
      per_space: the same for each space, by name.
      zero_groups: number of groups that are zero.
      regulariser: :math:`\sum_g \|x_g\|_2`, without lambda.
      smallest_ratio: the smallest half-space ratio of a non-zero group at the last step, where the
        optimizer's state was given; else None.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> {name: float(share) for name, share in group_sparsity(params, zigs).per_space.items()}
      {'a': 0.5}
    """

    overall: jax.Array
    per_space: dict[str, jax.Array]
    zero_groups: jax.Array
    regulariser: jax.Array
    smallest_ratio: jax.Array | None = None


def group_sparsity(params: Any, zigs: ZIGs, state: Any = None) -> GroupSparsity:
    r"""Group sparsity of parameters, overall and per space, and the regulariser.

    A group is zero when every entry is bitwise zero in every parameter it lies in. Runs under
    `jax.jit`, at the cost of reading the parameters once.

    Args:
      params: the parameters, or the variables that hold them.
      zigs: the groups.
      state: the optimizer's state, for the smallest half-space ratio.

    Returns:
      A `GroupSparsity`.

    Raises:
      ZIGMismatchError: if the parameters are not those of ``zigs``.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> sparsity = oto_jax.group_sparsity(params, zigs)
      >>> float(sparsity.overall), int(sparsity.zero_groups), float(sparsity.regulariser)
      (0.5, 1, 5.0)
    """
    leaves = grouped_leaves(zigs, params)
    norms = squared_norms(zigs, leaves)
    zeros = {
        name: jnp.sum(entries == 0, dtype=jnp.int32)
        for name, entries in nonzero_counts(zigs, leaves).items()
    }
    total = sum(zeros.values(), start=jnp.zeros([], jnp.int32))
    return GroupSparsity(
        overall=_share(total, zigs.num_groups),
        per_space={space.name: _share(zeros[space.name], space.size) for space in zigs.spaces},
        zero_groups=total,
        regulariser=sum((jnp.sum(jnp.sqrt(norm)) for norm in norms.values()), start=jnp.zeros([])),
        smallest_ratio=_smallest_ratio(state),
    )


def _share(count: jax.Array, size: int) -> jax.Array:
    return count.astype(jnp.float32) / max(size, 1)


def _smallest_ratio(state: Any) -> jax.Array | None:
    """Over the non-zero groups of all projections in the state."""
    ratios = [
        jnp.where(s.zero[name] | ~jnp.isfinite(ratio), jnp.inf, ratio)
        for s in projection_states(state)
        for name, ratio in s.ratio.items()
    ]
    return jnp.min(jnp.stack([jnp.min(ratio) for ratio in ratios])) if ratios else None
