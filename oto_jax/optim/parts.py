"""One part of the groups after the other, for the sake of a CPU's cache: `in_parts`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
      make: from groups to a transformation that treats each space and each parameter without
        regard to the others. Leaves of its state lie at the path of a parameter or under the name
        of a space, or are numbers that do not depend on either; the state of a projection is
        among them.
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
        given, directions, held = map(leaves_by_path, (params, updates, state))
        if not _can_be_split(given, directions):
            return whole.update(updates, state, params, **extra_args)
        paths: list[list[Path]] = [[] for _ in parts]
        for path in directions:  # What is in no group goes with the first part.
            paths[owners.get(from_root(zigs, path), 0)].append(path)
        expected = [
            jax.eval_shape(tx.init, _at(mine, given))
            for tx, mine in zip(transformations, paths, strict=True)
        ]
        if not all(leaves_by_path(one).keys() <= held.keys() for one in expected):
            return whole.update(updates, state, params, **extra_args)  # Made with other settings.

        new_updates, new_state, gate = dict(directions), dict(held), None
        for tx, mine, shapes in zip(transformations, paths, expected, strict=True):
            part_params = _at(mine, {path: _wait(given[path], gate) for path in mine})
            part_state = _like(shapes, held)
            results = tx.update(_at(mine, directions), part_state, part_params, **extra_args)
            new_updates |= leaves_by_path(results[0])
            new_state |= leaves_by_path(results[1])
            gate = _gate(results[1])
        return _like(updates, new_updates), _like(state, new_state)

    return optax.GradientTransformationExtraArgs(whole.init, update_fn)


def split(zigs: ZIGs, least_entries: int) -> tuple[ZIGs, ...]:
    """The groups in parts that share no parameter and have so many entries at the least.

    Args:
      zigs: the groups.
      least_entries: of the parameters of a part, save the last.

    Returns:
      ZIGs that differ from the given ones in their spaces only; these keep the numbers of their
      groups.
    """
    sizes = {leaf.path: leaf.size for leaf in zigs.parameters}
    parts: list[tuple[Space, ...]] = []
    spaces: list[Space] = []
    entries = 0
    for together, paths in _sharing_parameters(zigs):
        spaces += together
        entries += sum(sizes[path] for path in paths)
        if entries >= least_entries:
            parts.append(tuple(spaces))
            spaces, entries = [], 0
    if spaces:
        parts.append(tuple(spaces))
    return tuple(dataclasses.replace(zigs, spaces=part) for part in parts)


def _sharing_parameters(zigs: ZIGs) -> list[tuple[list[Space], list[Path]]]:
    """The spaces, those together that hold entries of the same parameters, and these."""
    found: dict[Path, tuple[list[Space], list[Path]]] = {}
    for space in zigs.spaces:
        own = [member.path for member in space.members]
        joined = {id(found[path]): found[path] for path in own if path in found}
        spaces = [other for spaces, _ in joined.values() for other in spaces]
        paths = dict.fromkeys([*(path for _, paths in joined.values() for path in paths), *own])
        found |= dict.fromkeys(paths, ([*spaces, space], list(paths)))
    return list({id(one): one for one in found.values()}.values())


def _can_be_split(given: Mapping[Path, Any], directions: Mapping[Path, Any]) -> bool:
    """Whether parts can be updated by themselves, in an order that XLA is told.

    Not without `jax.jit`, where steps are taken as they come. Not under `jax.shard_map`: where
    one part varies over devices, the next would. Nor where the trees differ, or a parameter's
    path leads through another: the whole has the errors for that, or copes.

    Args:
      given: the parameters by their paths.
      directions: the updates, likewise.
    """
    return (
        any(isinstance(leaf, jax.core.Tracer) for leaf in directions.values())
        and not jax.sharding.get_abstract_mesh().manual_axes
        and given.keys() == directions.keys()
        and not any(path[:i] in given for path in given for i in range(len(path)))
    )


def _gate(state: Any) -> jax.Array:
    """The number 1, known on a CPU as soon as the projection has decided and not before.

    `jax.lax.optimization_barrier` would say it better, but XLA's CPU backend drops it before it
    orders the steps.
    """
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


def _at(paths: Iterable[Path], leaves: Mapping[Path, Any]) -> Any:
    """The leaves at some paths, as nested dictionaries."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaves[path]
    return tree


def _like(tree: Any, leaves: Mapping[Path, Any]) -> Any:
    """A tree of the same structure with the leaves given by their path."""
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[key_path(keys)], tree)
