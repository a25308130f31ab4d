"""Group sparsity of the network that trains, measured against the one it was at the start."""

from __future__ import annotations

import jax

import oto_jax


def sparsity_row(
    full: oto_jax.ZIGs, now: oto_jax.ZIGs, found: oto_jax.GroupSparsity
) -> dict[str, float]:
    """What is gone, be it zero or cut out: overall, per space, and the regulariser.

    Args:
      full: the groups of the network before any cut.
      now: the groups of the network that trains.
      found: its sparsity.

    Returns:
      Values between 0 and 1 under ``sparsity`` and ``sparsity/SPACE``; ``regulariser``.
    """
    found = jax.device_get(found)
    alive = now.num_groups - int(found.zero_groups)
    row = {"sparsity": 1 - alive / full.num_groups, "regulariser": float(found.regulariser)}
    sizes = {space.name: space.size for space in now.spaces}
    for space in full.spaces:
        left = sizes[space.name] * (1 - float(found.per_space[space.name]))
        row[f"sparsity/{space.name}"] = 1 - round(left) / space.size
    return row
