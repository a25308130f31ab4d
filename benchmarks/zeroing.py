"""Networks with groups at zero, as a training would have left them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import oto_jax
from oto_jax.zigs.partition import key_path


def with_zeros(variables: Any, zigs: oto_jax.ZIGs, groups: np.ndarray) -> Any:
    """The variables with the groups of these numbers at zero; the type of each array stays.

    Args:
      variables: what `oto_jax.find_zigs` was given, a tree of any kind.
      zigs: its groups.
      groups: numbers of groups.

    Example:
      >>> import jax.numpy as jnp, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> zigs = oto_jax.find_zigs(model, variables, jnp.ones((1, 3)))
      >>> zeroed = with_zeros(variables, zigs, np.array([1, 2]))
      >>> oto_jax.make_plan(zeroed, zigs).spaces[0].units.count
      2
    """

    def zeroed(path: Any, leaf: Any) -> Any:
        pairs = zigs.members_by_path.get(key_path(path), ())
        leaf = np.array(leaf) if pairs else leaf
        for space, member in pairs:
            units = member.unit_of_position(leaf.shape[member.axis])
            dead = (units >= 0) & np.isin(units + space.start, groups)
            np.moveaxis(leaf, member.axis, 0)[dead] = 0
        return leaf

    return jax.tree_util.tree_map_with_path(zeroed, variables)
