"""What is left of a network when groups are cut: the groups, parameters or MACs that stay.

Cutting unit after unit shortens every axis that its space runs along, the inputs of the next layer
too, so the cost is a polynomial in the numbers of cut units: for each array the product of what is
left of its axes, times a price per entry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from oto_jax.errors import HyperparameterError
from oto_jax.optim.hyperparameters import check_number
from oto_jax.zigs.partition import Leaf, Space, ZIGs, format_path


@dataclasses.dataclass(frozen=True, eq=False)
class KeptCost:
    r"""The cost :math:`\sum_l c_l \prod_a (n_{la} - \sum_s w_{las} r_s)` of a pruned network.

    Attributes:
      prices: :math:`c_l` of each array, per entry; shape ``(arrays,)``.
      sizes: :math:`n_{la}`, the full length of each axis, 1 beyond the array's rank;
        shape ``(arrays, axes)``.
      weights: :math:`w_{las}`, positions of the axis per unit of the space;
        shape ``(arrays, axes, spaces)``.
    """

    prices: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray

    def __call__(self, removed: Any, xp: Any = np) -> Any:
        """The cost when ``removed`` units of each space are cut.

        Args:
          removed: number of cut units by space, shape ``(spaces,)``, floating point.
          xp: `numpy` on the host, `jax.numpy` in a program.
        """
        lengths = self._lengths(removed, xp)
        return xp.sum(xp.asarray(self.prices, removed.dtype) * xp.prod(lengths, axis=1))

    def savings(self, removed: Any, xp: Any = np) -> Any:
        """What cutting one unit more saves, by space; shape ``(spaces,)``.

        The difference is taken array by array, so that it keeps its digits in a large network.

        Args:
          removed: number of cut units by space, shape ``(spaces,)``, floating point.
          xp: `numpy` on the host, `jax.numpy` in a program.
        """
        lengths = self._lengths(removed, xp)[:, :, None]
        shorter = lengths - xp.asarray(self.weights, removed.dtype)
        saved = xp.prod(lengths, axis=1) - xp.prod(shorter, axis=1)
        return xp.sum(xp.asarray(self.prices, removed.dtype)[:, None] * saved, axis=0)

    def _lengths(self, removed: Any, xp: Any) -> Any:
        """What is left of every axis; shape ``(arrays, axes)``."""
        dtype = removed.dtype
        # No matrix product: accelerators would round it to bfloat16 or TF32.
        cut = xp.sum(xp.asarray(self.weights, dtype) * removed[None, None, :], axis=2)
        return xp.asarray(self.sizes, dtype) - cut


def group_count(spaces: tuple[Space, ...]) -> KeptCost:
    """The number of groups of some spaces that stay."""
    sizes = np.array([[space.size] for space in spaces], np.float64)
    return KeptCost(np.ones(len(spaces)), sizes, np.eye(len(spaces))[:, None, :])


def parameter_cost(zigs: ZIGs, prices: Mapping[str, float] | None = None) -> KeptCost:
    """The price of the parameters that stay.

    Args:
      zigs: the groups.
      prices: by path (slash-separated), what one entry of an array costs; arrays that are not
        named cost nothing. Without it every parameter costs 1.

    Raises:
      HyperparameterError: if a path is unknown or a price is negative or not finite.

    Example:
      >>> import jax.numpy as jnp, numpy as np, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4))}
      >>> cost = parameter_cost(oto_jax.find_zigs(f, params, jnp.ones((1, 2))))
      >>> float(cost(np.array([0.0]))), float(cost(np.array([1.0])))
      (18.0, 12.0)
    """
    priced = _prices(zigs, prices)
    leaves = [leaf for leaf in zigs.parameters if priced.get(leaf.path, 0) > 0]
    rank = max((len(leaf.shape) for leaf in leaves), default=0)
    return KeptCost(
        prices=np.array([priced[leaf.path] for leaf in leaves], np.float64),
        sizes=np.array([_padded(leaf, rank) for leaf in leaves], np.float64),
        weights=_weights(zigs, leaves, rank),
    )


def _prices(zigs: ZIGs, prices: Mapping[str, float] | None) -> dict[tuple[str, ...], float]:
    if prices is None:
        return {leaf.path: 1.0 for leaf in zigs.parameters}
    known = {format_path(leaf.path): leaf.path for leaf in zigs.parameters}
    known |= {format_path(path[len(zigs.prefix) :]): path for path in known.values()}
    for name, price in prices.items():
        if name not in known:
            raise HyperparameterError(f"costs name the parameter {name!r}, which does not exist")
        check_number(f"the cost of {name!r}", price, low=0.0, scheduled=False)
    return {known[name]: float(price) for name, price in prices.items()}


def _padded(leaf: Leaf, rank: int) -> list[int]:
    return [*leaf.shape, *[1] * (rank - len(leaf.shape))]


def _weights(zigs: ZIGs, leaves: list[Leaf], rank: int) -> np.ndarray:
    rows = {leaf.path: i for i, leaf in enumerate(leaves)}
    weights = np.zeros((len(leaves), rank, len(zigs.spaces)))
    for column, space in enumerate(zigs.spaces):
        for member in space.axes:
            if member.path in rows:
                weights[rows[member.path], member.axis, column] += member.positions_per_unit
    return weights
