"""Multiply-accumulates and parameters, counted the way the paper's tables do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from oto_jax.prune.equations import inner_jaxprs, repeats


def count_macs(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Multiply-accumulates of convolutions and matrix products in one call of ``fn``.

    Counted on the jaxpr, so whatever the model is written in: ``m n k`` for an ``(m, k) (k, n)``
    product; for a convolution the size of its output times its window times its input channels
    per group; for a transposed one the size of its input times its window times its output
    channels per group. Bodies of ``scan`` count once per turn, those of ``while`` once in all (the
    number of turns is not known), of the branches of a ``cond`` the dearest. Element-wise work is
    left out, as in Chen et al. 2021, Tables 1 to 3.

    Args:
      fn: any traceable function.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`; the whole batch counts.
      **kwargs: keyword arguments that are passed as they are.

    Returns:
      The multiply-accumulates, of which each is two floating-point operations.

    Example:
      >>> import jax.numpy as jnp
      >>> count_macs(lambda x, w: x @ w, jnp.ones((2, 3)), jnp.ones((3, 5)))
      30
    """
    leaves, treedef = jax.tree_util.tree_flatten(args)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]

    def flat(*given: Any) -> Any:
        rest = iter(given)
        full = [next(rest) if _is_array(leaf) else leaf for leaf in leaves]
        return fn(*jax.tree_util.tree_unflatten(treedef, full), **kwargs)

    return jaxpr_macs(jax.make_jaxpr(flat)(*arrays).jaxpr)


def count_parameters(params: Any) -> int:
    """Number of entries of a pytree of arrays; of its ``"params"`` alone where it has them.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`, in any pytree.

    Returns:
      The number, zeros included.

    Example:
      >>> count_parameters({"params": {"w": np.ones((2, 3))}, "batch_stats": {"m": np.ones(3)}})
      6
    """
    if hasattr(params, "keys") and "params" in params:
        params = params["params"]
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree_util.tree_leaves(params))


def jaxpr_macs(jaxpr: Any) -> int:
    """Multiply-accumulates of one run of a jaxpr."""
    return sum(_equation_macs(eqn) for eqn in jaxpr.eqns)


def _equation_macs(eqn: Any) -> int:
    match eqn.primitive.name:
        case "dot_general":
            return _dot_general(eqn)
        case "conv_general_dilated":
            return _convolution(eqn)
        case "ragged_dot" | "ragged_dot_general":
            rows, inner = eqn.invars[0].aval.shape[-2:]
            return int(rows * inner * eqn.invars[1].aval.shape[-1])
        case "cond":
            return max(jaxpr_macs(branch) for branch in inner_jaxprs(eqn))
        case _ if _is_custom_derivative(eqn):
            return jaxpr_macs(inner_jaxprs(eqn)[0])
    return repeats(eqn) * sum(jaxpr_macs(inner) for inner in inner_jaxprs(eqn))


def _is_custom_derivative(eqn: Any) -> bool:
    """Those hold the function first and, depending on the release, its derivative besides."""
    return eqn.primitive.name.startswith("custom_") and bool(inner_jaxprs(eqn))


def _dot_general(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)


def _convolution(eqn: Any) -> int:
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs = (var.aval.shape for var in eqn.invars)
    outputs, inputs, *window = (rhs[axis] for axis in numbers.rhs_spec)
    if any(dilation > 1 for dilation in eqn.params["lhs_dilation"]):
        per_input = math.prod(window) * outputs // eqn.params["feature_group_count"]
        return math.prod(lhs) * per_input
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(window) * inputs


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")
