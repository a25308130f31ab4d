"""Exact pruning of any function: evaluate its own program at the surviving widths.

The function is traced at full width, whatever the batch or sequence length at hand, every axis of
its program gets its dimension, and the program is evaluated again with narrower arrays. Nothing
else changes: a mean still divides by the full width, a softmax keeps its scale, a numbering counts
as before. So this is exact wherever `oto_jax.find_zigs` proved the groups zero-invariant, also
where a rebuilt module would compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.prune.evaluation_rules import RULES
from oto_jax.prune.evaluator import evaluate
from oto_jax.prune.plan import Plan, make_plan
from oto_jax.prune.reproof import check_still_safe
from oto_jax.prune.slicing import slice_variables
from oto_jax.prune.survivors import Kept, Survivors
from oto_jax.zigs.call import Call, abstract_array
from oto_jax.zigs.partition import Path, Run, ZIGs, format_path, key_path
from oto_jax.zigs.program import Body


def narrow(
    fn: Callable[..., Any], variables: Any, zigs: ZIGs, *, round_to: int = 1
) -> tuple[Callable[..., Any], Any]:
    """Prune a function: the same outputs, from smaller variables and less work.

    Args:
      fn: ``fn(variables, *args, **kwargs)``, such as ``model.apply`` or the function that
        `find_zigs` was given.
      variables: the trained variables, with groups that are exactly zero.
      zigs: the groups.
      round_to: keep some zero units so that widths are multiples of it.

    Returns:
      ``(narrow_fn, narrow_variables)``. ``narrow_fn(narrow_variables, *args, **kwargs)`` equals
      ``fn(variables, *args, **kwargs)`` up to rounding, at any batch size and sequence length, and
      works inside ``jit``, ``grad``, ``vmap`` and the like. Keyword arguments and Python scalars
      are static. Of a space that is zero throughout nothing stays: its arrays have an axis of
      length 0, and the branch that it was is not computed.

    Raises:
      NonFiniteParametersError: if a parameter holds NaN or infinity.
      ZIGMismatchError: if ``variables`` are not those of ``zigs``; from ``narrow_fn``, if with its
        arguments ``fn`` is a program in which the cut is not safe: what runs is proven anew.
      UnprunableModelError: if ``zigs`` has no groups.
      UntraceableError: from ``narrow_fn``, if ``fn`` cannot be traced with its arguments.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.tanh(x @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)).at[:, 1].set(0), "b": jnp.ones((3, 4))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> slim_f, slim_params = oto_jax.narrow(f, params, zigs)
      >>> slim_params["a"].shape, slim_f(slim_params, jnp.ones((5, 2))).shape
      ((2, 2), (5, 4))
    """
    plan = make_plan(variables, zigs, round_to=round_to, keep_one=False)
    return narrow_function(fn, plan, zigs), slice_variables(variables, plan)


def narrow_function(fn: Callable[..., Any], plan: Plan, zigs: ZIGs) -> Callable[..., Any]:
    """``fn`` for variables cut along ``plan``, which is one for ``zigs``."""
    gone = _gone(plan, zigs)
    zeroed = [
        (member.path, member.axis)
        for space, row in zip(zigs.spaces, plan.spaces, strict=True)
        for member in space.members
        if not row.units.whole
    ]

    def narrow_fn(variables: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(*args, **kwargs)
        leaves, treedef = jax.tree_util.tree_flatten(variables)
        count = len(leaves)

        def flat(*arrays: Any) -> Any:
            inner_args, inner_kwargs = call.filled(arrays[count:])
            given = jax.tree_util.tree_unflatten(treedef, arrays[:count])
            return fn(given, *inner_args, **inner_kwargs)

        rows = _rows(plan, variables)
        inputs = _array_leaves((args, kwargs))
        avals = [
            abstract_array(leaf).update(shape=row.shape)
            for row, leaf in zip(rows, leaves, strict=True)
        ]
        avals += call.arrays()
        kept = [
            {axis: Kept(cut.positions, gone.get((row.path, axis), ())) for axis, cut in row.cuts}
            for row in rows
        ]
        kept += [{} for _ in inputs]

        def check(body: Body, survivors: Survivors, outputs: Any) -> None:
            known = {row.path: value for row, value in zip(rows, body.ins, strict=False)}
            shapes = {row.path: row.slim_shape for row in rows}
            check_still_safe(body, known, shapes, zeroed, survivors, outputs)

        return evaluate(flat, avals, kept, [*leaves, *inputs], RULES, check)

    return narrow_fn


def _gone(plan: Plan, zigs: ZIGs) -> dict[tuple[Path, int], tuple[Run, ...]]:
    """By path and axis, where spaces of which nothing stays lie."""
    found: dict[tuple[Path, int], tuple[Run, ...]] = {}
    for space, row in zip(zigs.spaces, plan.spaces, strict=True):
        for member in space.axes if not row.units.count else ():
            key = (member.path, member.axis)
            found[key] = found.get(key, ()) + member.runs
    return found


def _rows(plan: Plan, variables: Any) -> list[Any]:
    """The plan of each leaf of narrow variables, in order."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        row = plan.by_path.get(key_path(path))
        if row is None or row.slim_shape != tuple(np.shape(leaf)):
            name = format_path(key_path(path))
            wanted = "nothing of that name" if row is None else f"shape {row.slim_shape}"
            raise ZIGMismatchError(
                f"narrow variables {name!r} have shape {tuple(np.shape(leaf))}, the plan has"
                f" {wanted}; pass the variables that narrow returned"
            )
        rows.append(row)
    return rows


def _array_leaves(tree: Any) -> list[Any]:
    """The leaves that `Call` takes for arrays."""
    leaves = jax.tree_util.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(Call.of(leaf).args[0], jax.ShapeDtypeStruct)]
