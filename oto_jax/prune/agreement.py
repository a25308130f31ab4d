"""Whether the slim program computes what the full one does, checked before it is handed out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.difference import worst_difference
from oto_jax.prune.equations import equations
from oto_jax.prune.plan import Plan
from oto_jax.zigs.partition import format_path, leaves_by_path

_DRAWS = frozenset({"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"})


@dataclasses.dataclass(frozen=True)
class Program:
    """A pure ``fn(variables, *arrays) -> (outputs, updated variables or None)`` and its variables.

    The updated variables, where there are any, are those arrays of ``variables`` that a call
    changes, such as running statistics.
    """

    fn: Callable[..., tuple[Any, Any]]
    variables: Any

    def shapes(self, arrays: Sequence[jax.ShapeDtypeStruct]) -> tuple[Any, Any]:
        """Abstract outputs and updated variables, without computing anything."""
        return jax.eval_shape(self.fn, self.variables, *arrays)


def check_agreement(
    full: Program, slim: Program, plan: Plan, arrays: Sequence[jax.ShapeDtypeStruct]
) -> None:
    """Checks that ``slim`` is ``full`` with some units cut out.

    Args:
      full: the full program on variables with zero groups.
      slim: the narrower program on the sliced variables.
      plan: what was cut.
      arrays: the abstract inputs to compare them on.

    Raises:
      UnprunableModelError: if outputs or updated variables have other shapes, or other values.
      Exception: whatever the slim program raises when it cannot run at all.
    """
    check_shapes(full, slim, plan, arrays)
    check_values(full, slim, arrays)


def check_shapes(
    full: Program, slim: Program, plan: Plan, arrays: Sequence[jax.ShapeDtypeStruct]
) -> None:
    """Checks by abstract evaluation that outputs keep their shapes and updates have the slim ones.

    Raises:
      UnprunableModelError: if they do not.
    """
    (full_out, _), (slim_out, updates) = full.shapes(arrays), slim.shapes(arrays)
    wanted, given = leaves_by_path(full_out), leaves_by_path(slim_out)
    known = plan.by_path
    wanted_updates = {
        path: known[path].slim_shape for path in leaves_by_path(updates) if path in known
    }
    _compare_shapes("output", {path: leaf.shape for path, leaf in wanted.items()}, given)
    _compare_shapes("updated variable", wanted_updates, leaves_by_path(updates))


def _compare_shapes(
    what: str, wanted: Mapping[Any, tuple[int, ...]], given: Mapping[Any, Any]
) -> None:
    for path, shape in wanted.items():
        found = given[path].shape if path in given else "nothing"
        if found != shape:
            raise UnprunableModelError(
                f"{what} {format_path(path)!r} of the slim model is {found}, not {shape}"
            )


def check_values(full: Program, slim: Program, arrays: Sequence[jax.ShapeDtypeStruct]) -> None:
    """Runs both programs on one random input and compares the outputs.

    Where the program draws random numbers, it draws others at another width, so nothing can be
    told; abstract variables cannot be run at all.

    Raises:
      UnprunableModelError: if the outputs differ by more than rounding.
    """
    if not _have_values(full.variables) or _is_random(full, arrays):
        return
    rng = np.random.default_rng(0)
    inputs = [_random_input(array, rng) for array in arrays]
    expected, _ = jax.jit(full.fn)(full.variables, *inputs)
    found, _ = jax.jit(slim.fn)(slim.variables, *inputs)
    difference = worst_difference(expected, found, equal_nan=True)
    if not difference.relative <= _tolerance(expected):
        raise UnprunableModelError(
            f"at its new widths the model computes something else: its outputs are off by"
            f" {difference.relative:.1e} of the largest (a width is probably part of a formula)"
        )


def _is_random(program: Program, arrays: Sequence[jax.ShapeDtypeStruct]) -> bool:
    closed = jax.make_jaxpr(program.fn)(program.variables, *arrays)
    return any(eqn.primitive.name in _DRAWS for eqn, _ in equations(closed.jaxpr))


def _have_values(variables: Any) -> bool:
    return not any(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree_util.tree_leaves(variables)
    )


def _random_input(array: jax.ShapeDtypeStruct, rng: np.random.Generator) -> Any:
    """A key, normal numbers; for integers and booleans zeros and ones, which are valid almost anywhere."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), array.shape)
    if jax.dtypes.issubdtype(array.dtype, np.inexact):
        return rng.standard_normal(array.shape).astype(array.dtype)
    return rng.integers(0, 2, array.shape).astype(array.dtype)


def _tolerance(outputs: Any) -> float:
    """Loose against rounding through many layers, tight against a wrong formula."""
    dtypes = [leaf.dtype for leaf in jax.tree_util.tree_leaves(outputs)]
    eps = [float(jax.numpy.finfo(d).eps) for d in dtypes if jax.dtypes.issubdtype(d, np.inexact)]
    return 4.0 * max([np.finfo(np.float32).eps, *eps]) ** 0.5
