r"""Saliencies: how much a group matters, from numbers that the optimizer has at hand.

A saliency is any function from `GroupStatistics` of one space to an array with a number per group;
the larger, the longer the group is kept. Only the order counts within a space; between spaces, and
between saliencies that are combined, scores are compared after division by their mean over the
living groups of the space, or as they are (`oto_jax.Target.per_cost`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from oto_jax.errors import HyperparameterError
from oto_jax.optim.norms import GroupVectors


class GroupStatistics(NamedTuple):
    r"""What a saliency may use, for the groups of one space; arrays of shape ``(size,)``.

    Attributes:
      squared_norm: :math:`\|x_g\|^2`.
      gradient_product: :math:`\langle \nabla f_g, x_g \rangle`.
      squared_gradient: :math:`\|\nabla f_g\|^2`.
      entries: the number of parameters in each of the groups.

    Example:
      A saliency of one's own, for `oto_jax.Target`:

      >>> import jax.numpy as jnp, oto_jax
      >>> def gradient_norm(statistics):
      ...     return jnp.sqrt(statistics.squared_gradient)
      >>> target = oto_jax.Target(group_sparsity=0.5, saliency=gradient_norm)
      >>> two_groups = GroupStatistics(*[jnp.array([4.0, 9.0])] * 3, entries=1)
      >>> target.saliency(two_groups).tolist()
      [2.0, 3.0]
    """

    squared_norm: jax.Array
    gradient_product: jax.Array
    squared_gradient: jax.Array
    entries: int


Saliency: TypeAlias = Callable[[GroupStatistics], jax.Array]
Saliencies: TypeAlias = Saliency | Sequence[tuple[Saliency, float]]
"""One saliency, or several with their weights."""


def magnitude(statistics: GroupStatistics) -> jax.Array:
    r"""Root mean square of a group's entries, :math:`\|x_g\| / \sqrt{n_g}`.

    Args:
      statistics: of the groups of one space.

    Returns:
      A number per group, shape ``(size,)``.

    Example:
      >>> import jax.numpy as jnp
      >>> one = GroupStatistics(jnp.array([4.0, 36.0]), *[jnp.zeros(2)] * 2, entries=4)
      >>> magnitude(one).tolist()
      [1.0, 3.0]
    """
    return jnp.sqrt(statistics.squared_norm / statistics.entries)


def taylor(statistics: GroupStatistics) -> jax.Array:
    r"""First-order change of the loss without the group, :math:`|\langle \nabla f_g, x_g \rangle|`.

    Molchanov et al., *Pruning convolutional neural networks for resource efficient inference*,
    ICLR 2017, equation 8.

    Args:
      statistics: of the groups of one space.

    Returns:
      A number per group, shape ``(size,)``.

    Example:
      >>> import jax.numpy as jnp
      >>> one = GroupStatistics(jnp.ones(2), jnp.array([-2.0, 0.5]), jnp.ones(2), entries=4)
      >>> taylor(one).tolist()
      [2.0, 0.5]
    """
    return jnp.abs(statistics.gradient_product)


def squared_taylor(statistics: GroupStatistics) -> jax.Array:
    r"""The square of `taylor`, whose average over batches is a Fisher information of the group.

    Molchanov et al., *Importance estimation for neural network pruning*, CVPR 2019, equation 8.

    Args:
      statistics: of the groups of one space.

    Returns:
      A number per group, shape ``(size,)``.

    Example:
      >>> import jax.numpy as jnp
      >>> one = GroupStatistics(jnp.ones(2), jnp.array([-2.0, 0.5]), jnp.ones(2), entries=4)
      >>> squared_taylor(one).tolist()
      [4.0, 0.25]
    """
    return jnp.square(statistics.gradient_product)


def cosine(statistics: GroupStatistics) -> jax.Array:
    r"""One plus the cosine between a group and the negative gradient, in [0, 2].

    Small where the way down leads towards zero: there, removing the group costs least. One of the
    saliencies of DHSPG (Chen et al., *OTOv2: Automatic, generic, user-friendly*, ICLR 2023).

    Args:
      statistics: of the groups of one space.

    Returns:
      A number per group, 1 where the group or its gradient is zero, shape ``(size,)``.

    Example:
      >>> import jax.numpy as jnp
      >>> one = GroupStatistics(jnp.ones(2), jnp.array([-1.0, 1.0]), jnp.ones(2), entries=4)
      >>> cosine(one).tolist()
      [2.0, 0.0]
    """
    norms = jnp.sqrt(statistics.squared_norm * statistics.squared_gradient)
    return 1 - statistics.gradient_product / jnp.where(norms > 0, norms, 1)


def combined_scores(
    saliencies: Saliencies, statistics: dict[str, GroupStatistics], relative: bool = True
) -> GroupVectors:
    """The weighted sum of saliencies.

    Args:
      saliencies: one saliency, or pairs of saliency and weight.
      statistics: by space.
      relative: divide each saliency by its mean over the living groups of every space.

    Returns:
      Per space, the scores; 0 for groups that are zero.

    Raises:
      HyperparameterError: if a saliency gives anything but a number for each group.

    Example:
      >>> import jax.numpy as jnp
      >>> one = GroupStatistics(jnp.array([4.0, 36.0, 0.0]), *[jnp.zeros(3)] * 2, entries=1)
      >>> combined_scores(magnitude, {"a": one})["a"].tolist()
      [0.5, 1.5, 0.0]
    """
    pairs = [(saliencies, 1.0)] if callable(saliencies) else list(saliencies)
    scores: GroupVectors = {}
    for name, one in statistics.items():
        living = one.squared_norm > 0
        scale = _with_mean_one if relative else _as_it_is
        parts = [weight * scale(_scores(saliency, one), living) for saliency, weight in pairs]
        scores[name] = sum(parts[1:], start=parts[0])
    return scores


def _scores(saliency: Saliency, statistics: GroupStatistics) -> jax.Array:
    scores, wanted = jnp.asarray(saliency(statistics)), statistics.squared_norm.shape
    if scores.shape != wanted:
        raise HyperparameterError(
            f"the saliency {getattr(saliency, '__name__', saliency)!r} gives scores of shape"
            f" {scores.shape}, and there are {wanted[0]} groups: one number for each, {wanted}"
        )
    return scores


def _as_it_is(score: jax.Array, living: jax.Array) -> jax.Array:
    return jnp.where(living, score, 0)


def _with_mean_one(score: jax.Array, living: jax.Array) -> jax.Array:
    """Divided by the mean over living groups; not finite entries count as none."""
    counted = living & jnp.isfinite(score)
    number = jnp.sum(counted, dtype=score.dtype)
    mean = jnp.sum(jnp.where(counted, score, 0)) / jnp.maximum(number, 1)
    return jnp.where(living, score / jnp.where(mean > 0, mean, 1), 0)
