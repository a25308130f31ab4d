"""One plan for two cuts made one after the other."""

from __future__ import annotations

import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.prune.plan import SOFTMAX_DEPTH, ArrayPlan, Cut, Form, Override, Plan, SpacePlan
from oto_jax.zigs.partition import Path, format_path


def compose_plans(first: Plan, second: Plan) -> Plan:
    """The plan from the full model to the model that was pruned twice.

    A network that was cut while it trained and again at its end is saved with this plan, so that
    it loads into the full model.

    Args:
      first: the plan of the first cut.
      second: the plan of a cut of the model that the first one left.

    Returns:
      A plan of the full model's arrays that keeps what both cuts keep.

    Raises:
      ZIGMismatchError: if ``second`` is not about the model that ``first`` left, or about other
        spaces: make it with ``shrink_zigs(zigs, first)``.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 4)).at[:, 1].set(0), "b": jnp.ones((4, 4))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> first = oto_jax.make_plan(params, zigs)
      >>> slim = {"a": jnp.ones((2, 3)).at[:, 0].set(0), "b": jnp.ones((3, 4))}
      >>> second = oto_jax.make_plan(slim, oto_jax.shrink_zigs(zigs, first))
      >>> compose_plans(first, second).units("a").positions
      array([2, 3])
    """
    return Plan(
        spaces=_spaces(first, second),
        arrays=tuple(_array(array, second) for array in first.arrays),
        prefix=first.prefix,
        form=_form(first.form, second.form),
        overrides=_overrides(first, second),
        call=first.call,
    )


def _spaces(first: Plan, second: Plan) -> tuple[SpacePlan, ...]:
    later = {space.name: space for space in second.spaces}
    if unknown := later.keys() - {space.name for space in first.spaces}:
        raise ZIGMismatchError(
            f"the second plan has the space {min(unknown)!r}, which the first does not know; make"
            " it with shrink_zigs(zigs, first)"
        )
    return tuple(
        _space(space, later[space.name]) if space.name in later else space for space in first.spaces
    )


def _space(first: SpacePlan, second: SpacePlan) -> SpacePlan:
    if second.units.size != first.units.count:
        raise ZIGMismatchError(
            f"space {first.name!r} was left with {first.units.count} units, but the second plan is"
            f" about {second.units.size}; make it with shrink_zigs(zigs, first)"
        )
    units = _cut_twice(first.units, second.units)
    return SpacePlan(first.name, first.start, units, first.emptied or second.emptied)


def _array(first: ArrayPlan, plan: Plan) -> ArrayPlan:
    second = plan.by_path.get(first.path)
    if second is None or second.shape != first.slim_shape:
        found = "missing" if second is None else second.shape
        raise ZIGMismatchError(
            f"{format_path(first.path)!r} was left at {first.slim_shape}, but is {found} in the"
            " second plan; compose plans in the order in which they were made"
        )
    early, late = dict(first.cuts), dict(second.cuts)
    return ArrayPlan(
        first.path,
        first.shape,
        tuple(
            (axis, _cut_twice(early.get(axis), late.get(axis)))
            for axis in sorted(early.keys() | late.keys())
        ),
    )


def _cut_twice(first: Cut | None, second: Cut | None) -> Cut:
    if first is None or second is None:
        cut = first or second
        assert cut is not None  # Axes come from one plan or the other.
        return cut
    return Cut.of(first.size, np.asarray(first.positions)[second.positions])


def _form(first: Form, second: Form) -> Form:
    """Overridden widths say all that a configuration does; ``arrays`` is of a cut of nothing."""
    return max(first, second, key=("arrays", "configuration", "attributes", "widths").index)


def _overrides(first: Plan, second: Plan) -> tuple[Override, ...]:
    """The later value of each field, but the depth that the first softmax was made for."""
    merged: dict[tuple[Path, Path], Override] = {}
    for override in (*first.overrides, *second.overrides):
        key = (override.path, override.field)
        if key not in merged or override.field != (SOFTMAX_DEPTH,):
            merged[key] = override
    return tuple(merged.values())
