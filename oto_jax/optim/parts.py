"""One part of the groups after the other, for the sake of a CPU's cache: `in_parts`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from oto_jax.optim.norms import from_root
from oto_jax.optim.zeros import projection_states
from oto_jax.zigs.partition import Path, Space, ZIGs, key_path, leaves_by_path

LEAST_ENTRIES = 2**19
"""Entries that a part has at the least: small ones are not worth the wait."""
LEAST_ENTRIES_TO_WAIT = 2**16
"""Entries of an array below which it does not wait: it stays in the cache anyway."""


def in_parts(
    make: Callable[[ZIGs], optax.GradientTransformationExtraArgs], zigs: ZIGs
) -> optax.GradientTransformationExtraArgs:
    """What ``make(zigs)`` does, on a CPU for one part of the groups after the other.

    HSPG goes over the parameters four times in a step: for the norms, the momentum, the inner
    products and the projection. XLA's CPU backend does each for all parameters before it begins
    with the next, and reads them from memory every time. Here a part waits until the one before it
    has been decided, so that it is read from memory once and from the cache then. It waits by a
    factor of 1 that depends on that decision. On other backends the factor is a constant, and
    nothing waits.

    Args:
      make: from groups to a transformation that looks at each space by itself, and whose state
        holds that of a projection.
      zigs: the groups.

    Returns:
      A transformation with the states and the results of ``make(zigs)``.
    """
    whole = make(zigs)
    parts = split(zigs, LEAST_ENTRIES)
    if len(parts) == 1:
        return whole
    transformations = [make(part) for part in parts]
    owners = {path: i for i, part in enumerate(parts) for path in part.members_by_path}

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        given, directions = leaves_by_path(params), leaves_by_path(updates)
        if not _is_traced(updates) or not directions.keys() <= given.keys():
            return whole.update(updates, state, params, **extra_args)
        held = leaves_by_path(state)
        new_updates, new_state = dict(directions), dict(held)
        paths: list[list[Path]] = [[] for _ in parts]
        for path in directions:
            paths[owners.get(from_root(zigs, path), 0)].append(path)
        gate = None
        for tx, mine in zip(transformations, paths, strict=True):
            part_params = unflatten_dict({path: _wait(given[path], gate) for path in mine})
            part_state = _like(jax.eval_shape(tx.init, part_params), held)
            part_updates = unflatten_dict({path: directions[path] for path in mine})
            results = tx.update(part_updates, part_state, part_params, **extra_args)
            new_updates |= leaves_by_path(results[0])
            new_state |= leaves_by_path(results[1])
            gate = _gate(results[1])
        return _like(updates, new_updates), _like(state, new_state)

    return optax.GradientTransformationExtraArgs(whole.init, update_fn)


def split(zigs: ZIGs, least_entries: int) -> tuple[ZIGs, ...]:
    """The groups in parts that share no parameter and have so many entries at the least.

    Args:
      zigs: the groups.
      least_entries: of a part, save the last.

    Returns:
      ZIGs that differ from the given ones in their spaces, which keep their order.
    """
    parts: list[tuple[Space, ...]] = []
    spaces: list[Space] = []
    for together in _sharing_parameters(zigs):
        spaces += together
        if sum(space.size * zigs.entries_per_group(space) for space in spaces) >= least_entries:
            parts.append(tuple(spaces))
            spaces = []
    if spaces:
        parts.append(tuple(spaces))
    return tuple(dataclasses.replace(zigs, spaces=part) for part in parts)


def _sharing_parameters(zigs: ZIGs) -> list[list[Space]]:
    """The spaces, those together that hold entries of the same parameters."""
    found: list[tuple[set[Path], list[Space]]] = []
    for space in zigs.spaces:
        paths = {member.path for member in space.members}
        joined = [one for one in found if one[0] & paths]
        merged = (
            paths.union(*(one[0] for one in joined)),
            [s for one in joined for s in one[1]] + [space],
        )
        found = [one for one in found if one not in joined] + [merged]
    return [spaces for _, spaces in found]


def _is_traced(tree: Any) -> bool:
    """Whether XLA will order the steps; without `jax.jit` they are taken as they come."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _gate(state: Any) -> jax.Array:
    """The number 1, known on a CPU as soon as the projection has decided and not before."""
    zero = [x for one in projection_states(state) for x in one.zero.values()]
    count = functools.reduce(jnp.add, [jnp.sum(x, dtype=jnp.int32) for x in zero])
    return jax.lax.platform_dependent(
        count,
        cpu=lambda n: jnp.where(n >= 0, jnp.float32(1), jnp.float32(jnp.nan)),
        default=lambda n: jnp.float32(1),
    )


def _wait(x: jax.Array, gate: jax.Array | None) -> jax.Array:
    if gate is None or np.size(x) < LEAST_ENTRIES_TO_WAIT:
        return x
    return x * gate.astype(x.dtype)


def _like(tree: Any, leaves: Mapping[Path, Any]) -> Any:
    """A tree of the same structure with the leaves given by their path."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[key_path(keys)], tree)
