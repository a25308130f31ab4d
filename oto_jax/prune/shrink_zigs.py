"""The ZIGs of the slim model, without a new trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.prune.plan import ArrayPlan, Cut, Plan
from oto_jax.zigs.partition import Leaf, Member, Run, Space, ZIGs, format_path


def shrink_zigs(zigs: ZIGs, plan: Plan) -> ZIGs:
    """The groups of the slim model: each space at its new size.

    Unit ``i`` of a slim space is the ``i``-th unit that stays. Group numbers start anew.

    Args:
      zigs: the groups of the full model.
      plan: what is kept, made with these ``zigs``.

    Returns:
      The groups that are left, for optimizers and plans of the slim model.

    Raises:
      ZIGMismatchError: if the plan was made with other ZIGs, or if what stays of a unit cannot
        be told as a regular run.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)).at[:, 1].set(0), "b": jnp.ones((3, 4))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> slim = oto_jax.shrink_zigs(zigs, oto_jax.make_plan(params, zigs))
      >>> slim.num_groups, slim.masks["a"].shape
      (2, (1, 2))
    """
    arrays = plan.by_path
    left = [space for space in zigs.spaces if plan.units(space.name).count]
    starts = np.cumsum([0, *(plan.units(space.name).count for space in left)]).tolist()
    spaces = tuple(
        _shrink_space(space, start, plan, zigs.entries_per_group(space))
        for space, start in zip(left, starts, strict=False)
    )
    parameters = tuple(
        Leaf(leaf.path, arrays[leaf.path].slim_shape, leaf.dtype) for leaf in zigs.parameters
    )
    return dataclasses.replace(zigs, spaces=spaces, parameters=parameters, shrunk=True)


def _shrink_space(space: Space, start: int, plan: Plan, full_entries: int) -> Space:
    return Space(
        name=space.name,
        size=plan.units(space.name).count,
        start=start,
        members=_shrink_members(space.members, plan, space),
        dependents=_shrink_members(space.dependents, plan, space),
        full_entries=full_entries,
    )


def _shrink_members(members: Iterable[Member], plan: Plan, space: Space) -> tuple[Member, ...]:
    return tuple(
        Member(
            member.path,
            member.axis,
            tuple(_shrink_run(run, member, plan, space) for run in member.runs),
        )
        for member in members
    )


def _shrink_run(run: Run, member: Member, plan: Plan, space: Space) -> Run:
    """The run over the positions that stay, by where they end up."""
    moved = _new_positions(plan.by_path[member.path], member.axis)[run.positions()]
    units = plan.units(space.name).positions
    boxes = [units if dim == run.unit_dim else _surviving(moved, dim) for dim in range(moved.ndim)]
    slim = moved[np.ix_(*boxes)]
    found = _as_run(slim, run.unit_dim)
    if found is None or (slim < 0).any() or slim.size != (moved >= 0).sum():
        raise ZIGMismatchError(
            f"what stays of axis {member.axis} of {format_path(member.path)!r} is no regular run"
            f" of space {space.name!r}; run find_zigs on the slim model"
        )
    return found


def _new_positions(array: ArrayPlan, axis: int) -> np.ndarray:
    """For each position of the full axis: its position on the slim one, or -1."""
    cut = dict(array.cuts).get(axis, Cut.of(array.shape[axis], range(array.shape[axis])))
    moved = np.full(cut.size, -1, np.int64)
    moved[cut.positions] = np.arange(cut.count)
    return moved


def _surviving(moved: np.ndarray, dim: int) -> np.ndarray:
    others = tuple(axis for axis in range(moved.ndim) if axis != dim)
    return np.flatnonzero((moved >= 0).any(axis=others))


def _as_run(positions: np.ndarray, unit_dim: int) -> Run | None:
    """The run with these positions, if they are an affine function of the index."""
    if not positions.size:
        return None
    origin = int(positions.flat[0])
    strides = tuple(
        int(positions.take(1, axis=dim).flat[0]) - origin if size > 1 else 1
        for dim, size in enumerate(positions.shape)
    )
    run = Run(origin, positions.shape, strides, unit_dim)
    return run if np.array_equal(run.positions(), positions) else None
