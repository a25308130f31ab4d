"""Networks with groups at zero, as a training would have left them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import oto_jax


def with_zeros(variables: Any, zigs: oto_jax.ZIGs, groups: np.ndarray) -> Any:
    """The variables with the groups of these numbers at zero.

    Example:
      >>> import jax.numpy as jnp, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> zigs = oto_jax.find_zigs(model, variables, jnp.ones((1, 3)))
      >>> zeroed = with_zeros(variables, zigs, np.array([1, 2]))
      >>> oto_jax.make_plan(zeroed, zigs).spaces[0].units.count
      2
    """

    def zeroed(leaf: Any, numbers: Any) -> np.ndarray:
        return np.where(np.isin(numbers, groups), np.float32(0), np.asarray(leaf))

    return {**variables, "params": jax.tree.map(zeroed, variables["params"], zigs.masks)}
