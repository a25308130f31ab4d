"""Per-group norms and inner products, and the way back from groups to parameters.

A parameter is touched by one reduction only: over every axis but the one that its groups lie along.
What is left is a vector of a few hundred positions; slices, reshapes and sums of that vector give
one number per unit, and broadcasts of such numbers give it back. Nothing gathers, scatters or
concatenates over parameters, so XLA fuses the reductions with whatever computes their input.

Vectors over groups are kept per space, as a dictionary from the space's name to an array with one
entry per unit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.zigs.partition import (
    Member,
    Path,
    Run,
    Space,
    ZIGs,
    format_path,
    key_path,
    leaves_by_path,
)

T = TypeVar("T")
GroupVectors = dict[str, jax.Array]
"""For each space, by name, one number per group: arrays of shape ``(space.size,)``."""
SLABS = 8
"""On CPUs, into how many slabs the rows of a large array are cut to be summed, at most."""
LEAST_ENTRIES_IN_SLABS = 2**16
"""From how many entries on an array is large."""


def grouped_leaves(zigs: ZIGs, tree: Any) -> dict[Path, jax.Array]:
    """The arrays of a tree that hold entries of groups, by path from the root of the variables.

    Leaves are matched by normalised key path, so boxed and bare trees, and trees from which
    parameters outside every group were masked out, all serve.

    Args:
      zigs: the groups.
      tree: parameters, gradients or updates.

    Returns:
      One array per parameter that has members in a group.

    Raises:
      ZIGMismatchError: if such an array is missing or has another shape.
    """
    given = leaves_by_path(tree)
    shapes = {leaf.path: leaf.shape for leaf in zigs.parameters}
    return {path: _find(given, path, len(zigs.prefix), shapes) for path in zigs.members_by_path}


def _find(
    given: Mapping[Path, Any], path: Path, prefix: int, shapes: Mapping[Path, tuple[int, ...]]
) -> Any:
    array = given.get(path[prefix:], given.get(path))
    name = format_path(path[prefix:])
    if array is None:
        raise ZIGMismatchError(
            f"the tree has no {name!r}, which belongs to zero-invariant groups: give the optimizer"
            " every parameter that the groups cover, and ZIGs that were found on this model"
        )
    if tuple(np.shape(array)) != shapes[path]:
        raise ZIGMismatchError(
            f"{name!r} has shape {tuple(np.shape(array))}, the ZIGs were found with"
            f" {shapes[path]}: run find_zigs on this model again"
        )
    return array


def accumulation_dtype(*arrays: Any) -> Any:
    """Float32, or float64 where an array has it: what group vectors are computed in."""
    wide = any(x.dtype == jnp.float64 for x in arrays) and jax.config.read("jax_enable_x64")
    return jnp.float64 if wide else jnp.float32


def map_leaves(zigs: ZIGs, f: Callable[[Path, Any, Any], Any], tree: Any, params: Any) -> Any:
    """Map over a tree and the parameters, matched by normalised key path.

    Args:
      zigs: the groups.
      f: called with the path from the root of the variables, the leaf and the parameter.
      tree: gradients or updates; the result has its structure.
      params: the parameters; keys may be spelled another way.

    Raises:
      ZIGMismatchError: if the parameters lack a leaf that the tree has.
    """
    given = leaves_by_path(params)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    results = []
    for keys, leaf in leaves:
        path = key_path(keys)
        if path not in given:
            raise ZIGMismatchError(
                f"the gradients have {format_path(path)!r}, the parameters do not: pass the"
                " parameters that the gradients were taken of"
            )
        results.append(f(from_root(zigs, path), leaf, given[path]))
    return jax.tree_util.tree_unflatten(treedef, results)


def from_root(zigs: ZIGs, path: Path) -> Path:
    """The path from the root of the variables of what lies at a path in a tree of parameters."""
    whole = (*zigs.prefix, *path)
    return whole if whole in _parameter_paths(zigs) else path


@functools.lru_cache(maxsize=64)
def _parameter_paths(zigs: ZIGs) -> frozenset[Path]:
    return frozenset(leaf.path for leaf in zigs.parameters)


def inner_products(
    zigs: ZIGs, left: Mapping[Path, jax.Array], right: Mapping[Path, jax.Array]
) -> GroupVectors:
    r"""Inner product :math:`\langle x_g, y_g \rangle` of every group.

    Args:
      zigs: the groups.
      left: arrays by path, as `grouped_leaves` returns them.
      right: arrays by path, of the same shapes.

    Returns:
      Per space, an array of shape ``(space.size,)`` in float32 (float64 for float64 arrays).
    """

    dtype = accumulation_dtype(*left.values(), *right.values())
    return group_sums(
        zigs, {path: left[path].astype(dtype) * right[path].astype(dtype) for path in left}
    )


def squared_norms(zigs: ZIGs, leaves: Mapping[Path, jax.Array]) -> GroupVectors:
    r"""Squared Euclidean norm :math:`\|x_g\|^2` of every group; see `inner_products`."""
    return inner_products(zigs, leaves, leaves)


def nonzero_counts(zigs: ZIGs, leaves: Mapping[Path, jax.Array]) -> GroupVectors:
    """Number of entries of every group that are not bitwise zero (NaN counts), int32."""
    return group_sums(zigs, {path: (x != 0).astype(jnp.int32) for path, x in leaves.items()})


def group_sums(zigs: ZIGs, entries: Mapping[Path, jax.Array]) -> GroupVectors:
    """Sum of the entries of every group over all its members.

    Args:
      zigs: the groups.
      entries: one array per parameter with members in a group, shaped like the parameter.

    Returns:
      Per space, an array of shape ``(space.size,)``.
    """
    positions = {path: _sum_other_axes(x, _group_axis(zigs, path)) for path, x in entries.items()}
    return {
        space.name: sum(
            (_sum_positions(member, positions[member.path]) for member in space.members[1:]),
            start=_sum_positions(space.members[0], positions[space.members[0].path]),
        )
        for space in zigs.spaces
    }


def spread(
    zigs: ZIGs, vectors: Mapping[str, jax.Array], path: Path, shape: tuple[int, ...], fill: Any
) -> jax.Array:
    """A number per group laid along a parameter, ready to broadcast against it.

    Args:
      zigs: the groups.
      vectors: per space, an array of shape ``(space.size,)``.
      path: the parameter, from the root of the variables.
      shape: the parameter's shape.
      fill: the value at positions that belong to no group.

    Returns:
      An array of the parameter's rank, of size 1 on every axis but the groups' own.
    """
    pairs = zigs.members_by_path[path]
    return _broadcastable(shape, _group_axis(zigs, path), pairs, vectors, fill)


def spread_over_dependents(
    zigs: ZIGs, vectors: Mapping[str, jax.Array], path: Path, shape: tuple[int, ...], fill: Any
) -> list[jax.Array]:
    """A number per group laid along the axes of a parameter that are only cut with the group.

    Args:
      zigs: the groups.
      vectors: per space, an array of shape ``(space.size,)``.
      path: a parameter, in a group or not.
      shape: its shape.
      fill: the value at positions that depend on no group.

    Returns:
      For each such axis (the inputs of the next layer, say), an array of the parameter's rank, of
      size 1 on every other axis.
    """
    by_axis = _dependents(zigs).get(path, {})
    return [
        _broadcastable(shape, axis, tuple(pairs), vectors, fill) for axis, pairs in by_axis.items()
    ]


@functools.lru_cache(maxsize=64)
def _dependents(zigs: ZIGs) -> dict[Path, dict[int, list[tuple[Space, Member]]]]:
    """For each array, the axes along which it is cut without holding entries of a group."""
    found: dict[Path, dict[int, list[tuple[Space, Member]]]] = {}
    for space in zigs.spaces:
        for member in space.dependents:
            by_axis = found.setdefault(member.path, {})
            by_axis.setdefault(member.axis, []).append((space, member))
    return found


def _broadcastable(
    shape: tuple[int, ...],
    axis: int,
    pairs: tuple[tuple[Space, Member], ...],
    vectors: Mapping[str, jax.Array],
    fill: Any,
) -> jax.Array:
    along = _lay_along(shape[axis], pairs, vectors, fill)
    return along.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def cut(vectors: GroupVectors, plan: Any) -> GroupVectors:
    """Vectors over the groups that a plan keeps; axes in front, as of replicas, stay."""

    def cut_one(name: str) -> jax.Array:
        kept = plan.units(name).positions
        return jax.tree.map(lambda x: x[..., kept], vectors[name])

    return {name: cut_one(name) for name in of_kept_spaces(vectors, plan)}


def of_kept_spaces(by_space: Mapping[str, T], plan: Any) -> dict[str, T]:
    """The entries of the spaces of which a plan keeps anything."""
    return {name: value for name, value in by_space.items() if plan.units(name).count}


def _group_axis(zigs: ZIGs, path: Path) -> int:
    return zigs.members_by_path[path][0][1].axis  # Disjoint ZIGs: one axis per parameter.


def _sum_other_axes(x: jax.Array, axis: int) -> jax.Array:
    others = tuple(i for i in range(x.ndim) if i != axis)
    rows = math.prod(x.shape[:axis])
    slabs = next((n for n in range(SLABS, 1, -1) if rows % n == 0), 1)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if x.size < LEAST_ENTRIES_IN_SLABS or slabs == 1 or not floating or _is_sharded(x):
        return _replicated(jnp.sum(x, axis=others))
    return jax.lax.platform_dependent(
        x,
        cpu=functools.partial(_sum_in_slabs, axis=axis, slabs=slabs),
        default=functools.partial(jnp.sum, axis=others),
    )


def _sum_in_slabs(x: jax.Array, axis: int, slabs: int) -> jax.Array:
    """The sum over every axis but one, for XLA's CPU backend.

    There, a reduction over the leading axes has XLA write its input to memory first, unless that is
    as simple as a product, and then runs at half the speed of a plain update. The sum of a few
    slabs of rows is a plain update, which XLA fuses with whatever computes its input. What is left
    to reduce is shorter by their number, and goes through a matrix product because a `jnp.sum`
    would be fused with the rest again.
    """
    rows = x.reshape(slabs, math.prod(x.shape[:axis]) // slabs, -1)
    partial = functools.reduce(jnp.add, [rows[i] for i in range(slabs)])
    ones = jnp.ones(partial.shape[0], x.dtype)
    whole = jnp.dot(ones, partial, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(whole.reshape(x.shape[axis], -1), axis=1)


def _replicated(vector: jax.Array) -> jax.Array:
    """Under explicit sharding, slices and reshapes need the (tiny) vector whole everywhere."""
    return jax.sharding.reshard(vector, jax.P(None)) if _is_sharded(vector) else vector


def _is_sharded(x: jax.Array) -> bool:
    return any(name is not None for name in jax.typeof(x).sharding.spec)


def _sum_positions(member: Member, positions: jax.Array) -> jax.Array:
    sums = [_units_of_run(run, positions) for run in member.runs]
    return sum(sums[1:], start=sums[0])


def _units_of_run(run: Run, positions: jax.Array) -> jax.Array:
    others = tuple(i for i in range(len(run.shape)) if i != run.unit_dim)
    return jnp.sum(_take_run(run, positions), axis=others)


def _take_run(run: Run, positions: jax.Array) -> jax.Array:
    """The positions of a run as an array of shape ``run.shape``."""
    order = _contiguous_order(run)
    if order is None:
        return positions[run.positions()]
    block = positions[run.offset : run.offset + math.prod(run.shape)]
    return block.reshape([run.shape[i] for i in order]).transpose(np.argsort(order))


def _contiguous_order(run: Run) -> tuple[int, ...] | None:
    """The order of dimensions in which a run is one unbroken interval, or None."""
    order = sorted(range(len(run.shape)), key=lambda i: (-run.strides[i], i))
    stride = 1
    for i in reversed(order):
        if run.shape[i] > 1 and run.strides[i] != stride:
            return None
        stride *= run.shape[i]
    return tuple(order)


def _lay_along(
    size: int,
    pairs: tuple[tuple[Space, Member], ...],
    vectors: Mapping[str, jax.Array],
    fill: Any,
) -> jax.Array:
    """One number per position of an axis of length ``size``; ``fill`` where no group lies."""
    runs = [(space, run) for space, member in pairs for run in member.runs]
    if any(_contiguous_order(run) is None for _, run in runs):
        return _look_up(size, pairs, vectors, fill)
    pieces = list(_pieces(size, runs, vectors, fill))
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)


def _pieces(
    size: int, runs: list[tuple[Space, Run]], vectors: Mapping[str, jax.Array], fill: Any
) -> Iterator[jax.Array]:
    """The axis from left to right: intervals of groups, and gaps between them."""
    at = 0
    dtype = vectors[runs[0][0].name].dtype
    for space, run in sorted(runs, key=lambda pair: pair[1].offset):
        if run.offset > at:
            yield jnp.full(run.offset - at, fill, dtype)
        yield _positions_of_run(run, vectors[space.name])
        at = run.offset + math.prod(run.shape)
    if size > at:
        yield jnp.full(size - at, fill, dtype)


def _positions_of_run(run: Run, units: jax.Array) -> jax.Array:
    order = _contiguous_order(run)
    assert order is not None  # `_lay_along` comes here with contiguous runs only.
    shape = [-1 if i == run.unit_dim else 1 for i in range(len(run.shape))]
    block = jnp.broadcast_to(units.reshape(shape), run.shape)
    return block.transpose(order).reshape(-1)


def _look_up(
    size: int,
    pairs: tuple[tuple[Space, Member], ...],
    vectors: Mapping[str, jax.Array],
    fill: Any,
) -> jax.Array:
    """Interleaved runs: a static look-up in a vector as short as the axis."""
    spaces = {space.name: space for space, _ in pairs}
    first = vectors[next(iter(spaces))]
    table = [jnp.full(1, fill, first.dtype), *(vectors[name] for name in spaces)]
    starts = dict(zip(spaces, np.cumsum([1, *(s.size for s in spaces.values())]), strict=False))
    index = np.zeros(size, np.int32)
    for space, member in pairs:
        units = member.unit_of_position(size)
        index = np.where(units >= 0, units + starts[space.name], index)
    return jnp.concatenate(table)[index]
