"""ZIGs written by hand, for tests of the optimizer that should not depend on their discovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oto_jax.zigs.partition import Leaf, Member, Run, Space, ZIGs, key_path

Axis = tuple[str, int] | tuple[str, int, tuple[Run, ...]]


def handmade_zigs(
    params: Any,
    members: Mapping[str, Sequence[Axis]],
    dependents: Mapping[str, Sequence[Axis]] | None = None,
) -> ZIGs:
    """ZIGs over ``params``: per space, the axes as ``(slash/separated/path, axis[, runs])``."""
    leaves = tuple(
        Leaf(key_path(path), tuple(np.shape(x)), str(x.dtype))
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    )
    shapes = {leaf.path: leaf.shape for leaf in leaves}
    spaces: list[Space] = []
    for name, axes in members.items():
        found = tuple(_member(axis, shapes) for axis in axes)
        size = found[0].runs[0].units
        start = spaces[-1].groups.stop if spaces else 0
        others = tuple(_member(axis, shapes) for axis in (dependents or {}).get(name, ()))
        spaces.append(Space(name, size, start, found, others))
    return ZIGs(tuple(spaces), (), leaves, (), jax.tree_util.tree_structure(params))


def _member(axis: Axis, shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> Member:
    path, number, *runs = axis
    keys = tuple(path.split("/"))
    return Member(keys, number, runs[0] if runs else (plain_run(shapes[keys][number]),))


def plain_run(size: int, offset: int = 0) -> Run:
    """Unit ``i`` at position ``offset + i``."""
    return Run(offset, (size,), (1,), 0)
