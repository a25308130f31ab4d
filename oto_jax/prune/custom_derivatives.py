"""Functions that bring their own derivatives keep them at the surviving widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from oto_jax.prune.evaluator import Evaluator, evaluate
from oto_jax.prune.reproof import check_derivative
from oto_jax.prune.survivors import Kept
from oto_jax.zigs.program import Node, Value


def custom_jvp(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    """Keep the function's own derivative rule, evaluated at the surviving widths as well."""
    full = _as_function(node)
    avals, kept = _inputs(run, node)

    @jax.custom_jvp
    def fn(*arrays: Any) -> list[Any]:
        return run.run(node.bodies[0], arrays)

    def jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        smooth = [k for k, aval in enumerate(avals) if _is_smooth(aval)]

        def derivative(*arrays: Any) -> Any:
            points = arrays[: len(avals)]
            steps = [np.zeros(a.shape, jax.dtypes.float0) for a in avals]
            for k, step in zip(smooth, arrays[len(avals) :], strict=True):
                steps[k] = step
            return jax.jvp(full, tuple(points), tuple(steps))

        return evaluate(
            derivative,
            [*avals, *(avals[k] for k in smooth)],
            [*kept, *(kept[k] for k in smooth)],
            [*primals, *(tangents[k] for k in smooth)],
            run.rules,
            check_derivative,
        )

    fn.defjvp(jvp)
    return list(fn(*ins))


def custom_vjp(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    """The same for a reverse rule; the forward pass is recomputed in the backward pass."""
    full = _as_function(node)
    avals, kept = _inputs(run, node)
    outs_kept = [_cuts(run, value) for value in node.outs]
    out_avals = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in node.outs]

    @jax.custom_vjp
    def fn(*arrays: Any) -> list[Any]:
        return run.run(node.bodies[0], arrays)

    def forward(*arrays: Any) -> tuple[list[Any], tuple[Any, ...]]:
        return fn(*arrays), arrays

    def backward(arrays: tuple[Any, ...], cotangents: list[Any]) -> tuple[Any, ...]:
        smooth = [k for k, value in enumerate(node.outs) if _is_smooth(value)]

        def derivative(*given: Any) -> Any:
            points, steps = given[: len(avals)], given[len(avals) :]
            full_steps = [np.zeros(v.shape, jax.dtypes.float0) for v in node.outs]
            for k, step in zip(smooth, steps, strict=True):
                full_steps[k] = step
            grads = jax.vjp(full, *points)[1](full_steps)
            return [g for g, aval in zip(grads, avals, strict=True) if _is_smooth(aval)]

        found = iter(
            evaluate(
                derivative,
                [*avals, *(out_avals[k] for k in smooth)],
                [*kept, *(outs_kept[k] for k in smooth)],
                [*arrays, *(cotangents[k] for k in smooth)],
                run.rules,
            )
        )
        return tuple(next(found) if _is_smooth(aval) else None for aval in avals)

    fn.defvjp(forward, backward)
    return list(fn(*ins))


def _as_function(node: Node) -> Callable[..., list[Any]]:
    """The equation alone as a full-width function, custom derivatives included."""
    eqn = node.eqn
    gensym = jex.gensym()
    invars = [gensym(var.aval) for var in eqn.invars]
    alone = jex.new_jaxpr_eqn(
        invars, eqn.outvars, eqn.primitive, eqn.params, eqn.effects, eqn.source_info
    )
    info = jex.DebugInfo("narrow", node.name, ("",) * len(invars), ("",) * len(eqn.outvars))
    jaxpr = jex.Jaxpr((), invars, eqn.outvars, [alone], eqn.effects, debug_info=info)
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))


def _inputs(run: Evaluator, node: Node) -> tuple[list[Any], list[dict[int, Kept]]]:
    avals = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in node.ins]
    return avals, [_cuts(run, value) for value in node.ins]


def _cuts(run: Evaluator, value: Value) -> dict[int, Kept]:
    found = {}
    for axis, dim in enumerate(value.dims):
        positions = run.survivors.positions(dim)
        if positions is not None:
            found[axis] = Kept(positions, run.survivors.gone(dim))
    return found


def _is_smooth(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)
