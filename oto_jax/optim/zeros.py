"""`check_zeros`: are the groups that the optimizer put to zero still zero?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import OTOError, RevivedGroupsError, ZIGMismatchError
from oto_jax.optim.faithful import HalfSpaceState
from oto_jax.optim.norms import GroupVectors, grouped_leaves, nonzero_counts
from oto_jax.optim.target_rule import TargetState
from oto_jax.zigs.partition import Space, ZIGs, format_path

PROJECTION_STATES = (HalfSpaceState, TargetState)


def projection_states(state: Any) -> list[HalfSpaceState | TargetState]:
    """The states of all half-space projections inside an optimizer's state, however wrapped."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, PROJECTION_STATES))
    return [node for node in nodes if isinstance(node, PROJECTION_STATES)]


def revived_groups(params: Any, zigs: ZIGs, state: Any) -> GroupVectors:
    """Which groups the optimizer's state has as zero, though they are not; runs under `jax.jit`.

    Args:
      params: the parameters after the step.
      zigs: the groups.
      state: the optimizer's state after the step.

    Returns:
      Per space, a bool array of shape ``(space.size,)``.

    Raises:
      OTOError: if the state holds no half-space projection.
      ZIGMismatchError: if the parameters are not those of ``zigs``.
    """
    states = projection_states(state)
    if not states:
        raise OTOError(
            "the optimizer's state holds no half-space projection: pass the state that"
            " oto_jax.hspg or oto_jax.project_half_space made, alone or within others"
        )
    alive = nonzero_counts(zigs, grouped_leaves(zigs, params))
    revived = {name: jnp.zeros(count.shape, bool) for name, count in alive.items()}
    held = {name for one in states for name in one.zero}
    if not held & alive.keys():
        raise ZIGMismatchError(
            f"the optimizer's state is about the spaces {', '.join(sorted(held))}, the ZIGs about"
            f" {', '.join(sorted(alive))}: pass the ZIGs that the optimizer was made with"
        )
    for one in states:
        for name in one.zero.keys() & alive.keys():  # Another projection may have other spaces.
            revived[name] |= jnp.asarray(one.zero[name]) & (alive[name] > 0)
    return revived


def check_zeros(params: Any, zigs: ZIGs, state: Any) -> None:
    """Raise if groups that the half-space projection put to zero are not zero any more.

    That happens when a learning rate, weight decay, look-ahead or an average of the parameters
    changes the updates or the parameters after the projection: chain it before. Call this now and
    then outside `jax.jit`; inside, use `oto_jax.optim.zeros.revived_groups`.

    Args:
      params: the parameters after the step.
      zigs: the groups.
      state: the optimizer's state after the step.

    Raises:
      RevivedGroupsError: naming the space, its groups and the parameters.
      OTOError: if the state holds no half-space projection.
      ZIGMismatchError: if the parameters are not those of ``zigs``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 0.0]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> tx = oto_jax.hspg(0.1, zigs)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> oto_jax.check_zeros(params, zigs, state)
      >>> average = jax.tree.map(lambda x: 0.9 * x + 0.1, params)
      >>> oto_jax.check_zeros(average, zigs, state)
      Traceback (most recent call last):
      oto_jax.errors.RevivedGroupsError: 1 group of space 'a' (number 1) ...
    """
    revived = revived_groups(params, zigs, state)
    for space in zigs.spaces:
        units = np.flatnonzero(np.asarray(revived[space.name]))
        if units.size:
            raise RevivedGroupsError(_message(space, space.start + units))


def _message(space: Space, groups: np.ndarray) -> str:
    some = ", ".join(str(g) for g in groups[:8]) + (", ..." if groups.size > 8 else "")
    paths = ", ".join(format_path(member.path) for member in space.members)
    return (
        f"{groups.size} group{'s' * (groups.size > 1)} of space {space.name!r} (number {some})"
        f" {'were' if groups.size > 1 else 'was'} put to zero by the optimizer, but {paths} hold"
        " something else there now: let nothing change the updates or the parameters after the"
        " half-space projection (learning rate, weight decay, look-ahead, averages go before it)"
    )
