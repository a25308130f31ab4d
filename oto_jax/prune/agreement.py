"""Whether the slim program computes what the full one does, checked before it is handed out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.difference import worst_difference
from oto_jax.prune.equations import equations
from oto_jax.prune.plan import Plan
from oto_jax.prune.same_program import changed_draw, first_difference
from oto_jax.prune.slicing import slice_array
from oto_jax.prune.values import FINE_ENOUGH, coarsest, full_precision, random_array
from oto_jax.zigs.partition import Path, format_path, leaves_by_path
from oto_jax.zigs.rules.randomness import DRAWS


@dataclasses.dataclass(frozen=True)
class Program:
    """A pure ``fn(variables, *arrays) -> (outputs, updated variables or None)`` and its variables.

    The updated variables, where there are any, are those arrays of ``variables`` that a call
    changes, such as running statistics. ``streams`` are those variables that hold the caller's
    random keys; any other key among the variables is a constant of the model.
    """

    fn: Callable[..., tuple[Any, Any]]
    variables: Any
    streams: frozenset[Path] = frozenset()

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
    check_draws(full, plan, arrays)
    check_steps(full, slim, plan, arrays)


def check_steps(
    full: Program, slim: Program, plan: Plan, arrays: Sequence[jax.ShapeDtypeStruct]
) -> None:
    """Checks that ``slim`` computes what ``full`` does; the arguments are `check_agreement`'s.

    The proof is static: both programs are traced and compared step by step. Where they take other
    steps, as they may when one unit of an axis is left, values decide; where those cannot, because
    the program draws random numbers or computes in half precision, or there are no values, the slim
    program is refused. It is refused, too, where it takes the same steps with other numbers.

    Raises:
      UnprunableModelError: if it does not, or that cannot be told.
    """
    parting = first_difference(full.fn, full.variables, slim.fn, slim.variables, plan, arrays)
    if parting is None:
        return
    if parting.kind != "numbers" and _has_values(full.variables) and not _is_random(full, arrays):
        check_values(full, slim, plan, arrays, parting.text)
        if coarsest(full.fn, full.variables, *arrays) <= FINE_ENOUGH:
            return
    raise UnprunableModelError(f"at its new widths {parting.text}")


def check_draws(full: Program, plan: Plan, arrays: Sequence[jax.ShapeDtypeStruct]) -> None:
    """Checks that no constant of the model is drawn at random along a width that shrinks.

    Raises:
      UnprunableModelError: if one is: a narrower module draws another one.
    """
    changed = changed_draw(full.fn, full.variables, plan, arrays, full.streams)
    if changed is not None:
        raise UnprunableModelError(f"at its new widths {changed}")


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


def check_values(
    full: Program,
    slim: Program,
    plan: Plan,
    arrays: Sequence[jax.ShapeDtypeStruct],
    parting: str,
) -> None:
    """Runs both programs on one random input, in float64 where they allow it, and compares.

    Args:
      full: the full program, with values.
      slim: the slim program, with values.
      plan: what was cut.
      arrays: the abstract inputs.
      parting: where the programs part, for the message.

    Raises:
      UnprunableModelError: if the outputs, or updated variables, differ by more than rounding.
    """
    try:
        with jax.enable_x64(True):
            difference, tolerance = _difference(_doubled(full), _doubled(slim), plan, arrays)
    except Exception:  # A model may insist on float32, in the carry of a scan for instance.
        difference, tolerance = _difference(full, slim, plan, arrays)
    if not difference <= tolerance:
        raise UnprunableModelError(
            f"at its new widths {parting}, and on random input it is off by {difference:.1e} of the"
            " largest output or updated variable"
        )


def _difference(
    full: Program, slim: Program, plan: Plan, arrays: Sequence[jax.ShapeDtypeStruct]
) -> tuple[float, float]:
    """The worst relative difference on a random input, and how much rounding can explain."""
    rng = np.random.default_rng(0)
    inputs = [random_array(array, rng) for array in arrays]
    with full_precision():
        expected, updated = jax.jit(full.fn)(full.variables, *inputs)
        found, slim_updated = jax.jit(slim.fn)(slim.variables, *inputs)
    # A mask of -1e9 among the outputs shall not make what differs beside it look small.
    eps = coarsest(full.fn, full.variables, *inputs)
    equal = 1e-6 if eps < FINE_ENOUGH else 1.0
    difference = max(
        worst_difference(expected, found, equal_counts=equal).relative,
        worst_difference(_cut(updated, plan), _numbers(slim_updated), equal_counts=equal).relative,
    )
    return difference, max(1e-9, 400 * eps)


def _cut(updated: Any, plan: Plan) -> dict[Path, Any]:
    """Updated variables of the full model as those of the slim one should be, by path."""
    known = plan.by_path
    return {
        path: slice_array(leaf, known[path]) if path in known else leaf
        for path, leaf in _numbers(updated).items()
    }


def _numbers(tree: Any) -> dict[Path, Any]:
    """The leaves of a tree by path, without random keys."""
    leaves = leaves_by_path(tree).items()
    return {path: leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, np.number)}


def _doubled(program: Program) -> Program:
    """The program on variables of twice the precision."""
    return dataclasses.replace(
        program, variables=jax.tree_util.tree_map(_double, program.variables)
    )


def _double(leaf: Any) -> Any:
    return jnp.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, np.floating) else leaf


def _is_random(program: Program, arrays: Sequence[jax.ShapeDtypeStruct]) -> bool:
    closed = jax.make_jaxpr(program.fn)(program.variables, *arrays)
    return any(eqn.primitive.name in DRAWS for eqn, _ in equations(closed.jaxpr))


def _has_values(variables: Any) -> bool:
    return not any(
        isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree_util.tree_leaves(variables)
    )
