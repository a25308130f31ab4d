r"""The half-space test on vectors over groups (paper, section 3.2, equations 6 to 8).

A group :math:`x_g` whose trial :math:`\tilde x_g = x_g + u_g` leaves the half-space
:math:`\{z : \langle z, x_g \rangle \ge \epsilon \|x_g\|^2\}` is projected to zero. Everything here
works on the *half-space ratio* :math:`\langle \tilde x_g, x_g \rangle / \|x_g\|^2`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from oto_jax.optim.hyperparameters import AdaptiveEpsilon, Epsilon, value_at
from oto_jax.optim.norms import GroupVectors
from oto_jax.zigs.partition import Path


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a rule may look at before it decides.

    Attributes:
      params: the arrays with groups before the step, by path from the root of the variables.
      directions: the incoming updates, likewise.
      sign: 1 where the directions are still to be subtracted, like gradients; -1 where they are the
        step itself.
      gradients: the loss's gradient, likewise, where the caller gave it.
      squared_norms: of every group of the parameters.
      products: inner product of every group of the parameters with its step.
    """

    params: Mapping[Path, jax.Array]
    directions: Mapping[Path, jax.Array]
    sign: int
    gradients: Mapping[Path, jax.Array] | None
    squared_norms: GroupVectors
    products: GroupVectors


def half_space_ratios(squared_norms: GroupVectors, products: GroupVectors) -> GroupVectors:
    r"""The ratio :math:`1 + \langle u_g, x_g \rangle / \|x_g\|^2` of every group.

    Args:
      squared_norms: per space, :math:`\|x_g\|^2` before the step.
      products: per space, :math:`\langle u_g, x_g \rangle` with the update.

    Returns:
      Per space, the ratios. Infinite for groups that are zero, which have no half-space; infinite
      or NaN for groups whose update is not finite. Neither is ever below an epsilon, see `crosses`.

    Example:
      >>> import jax.numpy as jnp
      >>> norms, products = {"a": jnp.array([4.0, 0.0])}, {"a": jnp.array([-5.0, 0.0])}
      >>> half_space_ratios(norms, products)["a"].tolist()
      [-0.25, inf]
    """
    return {
        name: jnp.where(norm > 0, norm + products[name], 1.0) / norm
        for name, norm in squared_norms.items()
    }


def last_ratios(ratios: GroupVectors, before: GroupVectors) -> GroupVectors:
    """The ratios of this step, for groups that have one; else the last that they had.

    (A state that is written but never read would also cost its donated buffer: JAX would hand it to
    another output, and XLA copy that one out of the way.)
    """
    return {
        name: jnp.where(jnp.isposinf(ratio), before[name], ratio.astype(before[name].dtype))
        for name, ratio in ratios.items()
    }


def crosses(ratio: jax.Array, epsilon: Any) -> jax.Array:
    """Which groups the half-space test puts to zero: strictly below, and only finite trials."""
    return jnp.isfinite(ratio) & (ratio < jnp.asarray(epsilon, ratio.dtype))


def most_zero_groups(upper: Any, groups: jax.Array) -> jax.Array:
    """The largest number of zero groups in a space of ``groups`` under an upper sparsity.

    ``upper * groups`` rounded down, where a product that float32 puts a hair below a whole number
    counts as that number.
    """
    share = jnp.asarray(upper, jnp.float32) * groups.astype(jnp.float32)
    return jnp.floor(share * (1 + 4e-7) + 1e-6).astype(jnp.int32)


def deepest(candidates: jax.Array, ratio: jax.Array, allowed: jax.Array) -> jax.Array:
    """At most ``allowed`` of the candidates: those with the smallest ratio, then the first.

    The paper's cap on group sparsity, with the count that it means, and the same choice on every
    device.

    Args:
      candidates: bool, shape ``(size,)``.
      ratio: half-space ratios, shape ``(size,)``.
      allowed: how many may become zero; negative counts as none.

    Example:
      >>> import jax.numpy as jnp
      >>> deepest(jnp.array([True, True, False, True]), jnp.array([.2, -.1, -9., .2]), 2).tolist()
      [True, True, False, False]
    """

    def limit() -> jax.Array:
        order = jnp.argsort(jnp.where(candidates, ratio, jnp.inf), stable=True)
        return candidates & (jnp.argsort(order).astype(jnp.int32) < allowed)

    return jax.lax.cond(jnp.sum(candidates, dtype=jnp.int32) <= allowed, lambda: candidates, limit)


def kept_part(zero: jax.Array, squared_part: Any = 1.0) -> jax.Array:
    """What part of a trial is kept: 0 for groups that become zero, else a part in (0, 1].

    XLA would move the arithmetic behind a vector over groups into every loop that reads it, and
    repeat it for each entry of the parameters; on CPUs that halves the speed of an update. It does
    not do so with a square root, which is exact for 0 and 1: so this one ends in a root.

    Args:
      zero: which groups become zero, shape ``(size,)``.
      squared_part: the square of the part that the others keep.
    """
    return jnp.sqrt(jnp.where(zero, 0.0, squared_part))


def initial_epsilon(epsilon: Epsilon, dtype: Any) -> jax.Array | None:
    """What the state holds of an epsilon: the value of an adaptive one, else nothing."""
    return jnp.asarray(epsilon.start, dtype) if isinstance(epsilon, AdaptiveEpsilon) else None


def next_epsilon(
    epsilon: Epsilon,
    held: jax.Array | None,
    step: jax.Array,
    stage_step: jax.Array,
    below_bound: jax.Array,
) -> Any:
    """The epsilon of this step.

    Args:
      epsilon: a number, a schedule or an `AdaptiveEpsilon`.
      held: the value of an adaptive one so far.
      step: steps since the start of training.
      stage_step: steps since the start of stage 2; negative before.
      below_bound: whether the space may have more zero groups than it has.
    """
    if not isinstance(epsilon, AdaptiveEpsilon):
        return value_at(epsilon, step)
    assert held is not None  # `initial_epsilon` made it.
    due = (stage_step > 0) & (stage_step % epsilon.every == 0) & below_bound
    raised = jnp.minimum(held + epsilon.increase, epsilon.limit).astype(held.dtype)
    return jnp.where(due, raised, held)
