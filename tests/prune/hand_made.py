"""ZIGs written down by hand, so that plans are tested without discovery."""

import jax
import numpy as np

from oto_jax.zigs.partition import Leaf, Member, Path, Run, Space, ZIGs, key_path


def plain(path: Path, axis: int, size: int) -> Member:
    """An axis whose positions are the units."""
    return Member(path, axis, (Run(0, (size,), (1,), 0),))


def flattened(path: Path, axis: int, positions: int, size: int) -> Member:
    """An axis of ``positions * size`` entries with the units innermost."""
    return Member(path, axis, (Run(0, (positions, size), (size, 1), 1),))


def zigs_of(
    variables, spaces: list[tuple[str, int, list[Member], list[Member]]], prefix=()
) -> ZIGs:
    """The ZIGs of these spaces: name, size, members and dependents each."""
    params = variables
    for key in prefix:
        params = params[key]
    leaves = tuple(
        Leaf((*prefix, *key_path(path)), np.shape(leaf), str(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    )
    starts = np.cumsum([0, *(size for _, size, _, _ in spaces)]).tolist()
    rows = tuple(
        Space(name, size, start, tuple(members), tuple(dependents))
        for (name, size, members, dependents), start in zip(spaces, starts, strict=False)
    )
    return ZIGs(rows, (), leaves, prefix, jax.tree_util.tree_structure(params))
