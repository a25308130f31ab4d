"""Exact pruning of any function: evaluate its own program at the surviving widths.

The function is traced at full width, whatever the batch or sequence length at hand, every axis of
its program gets its dimension, and the program is evaluated again with narrower arrays. Nothing
else changes: a mean still divides by the full width, a softmax keeps its scale, a numbering counts
as before. So this is exact wherever `oto_jax.find_zigs` proved the groups zero-invariant, also
where a rebuilt module would compute something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from oto_jax.errors import OTOError, UntraceableError, ZIGMismatchError
from oto_jax.prune.narrow_params import narrow_params
from oto_jax.prune.plan import Plan, make_plan
from oto_jax.prune.slicing import slice_variables
from oto_jax.prune.survivors import Kept, Survivors
from oto_jax.zigs import dims as d
from oto_jax.zigs.call import Call
from oto_jax.zigs.partition import Path, Run, ZIGs, format_path, key_path
from oto_jax.zigs.program import Body, Node, Value, open_jaxpr
from oto_jax.zigs.rules.control import scan_counts
from oto_jax.zigs.rules.randomness import DRAWS


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
      ZIGMismatchError: if ``variables`` are not those of ``zigs``, or the program of ``fn`` has
        another structure.
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
            jax.ShapeDtypeStruct(row.shape, leaf.dtype)
            for row, leaf in zip(rows, leaves, strict=True)
        ]
        avals += call.arrays()
        kept = [
            {axis: Kept(cut.positions, gone.get((row.path, axis), ())) for axis, cut in row.cuts}
            for row in rows
        ]
        kept += [{} for _ in inputs]
        return call_narrow(flat, avals, kept, [*leaves, *inputs])

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


def call_narrow(
    fn: Callable[..., Any],
    avals: Sequence[Any],
    kept: Sequence[dict[int, Kept]],
    arrays: Sequence[Any],
) -> Any:
    """Evaluate ``fn``, traced on full ``avals``, on arrays of which only ``kept`` is there."""
    closed, shapes = _trace(fn, avals)
    values = [Value(tuple(a.shape), a.dtype, d.new_dims(a.shape)) for a in avals]
    body = open_jaxpr(closed.jaxpr, closed.consts, values)
    survivors = Survivors()
    for number, (value, cuts) in enumerate(zip(values, kept, strict=True)):
        for axis, stays in cuts.items():
            survivors.assign(value.dims[axis], stays, f"argument {number}, axis {axis}")
    outs = Evaluator(survivors).run(body, arrays)
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(shapes), outs)


def _trace(fn: Callable[..., Any], avals: Sequence[Any]) -> tuple[Any, Any]:
    try:
        return jax.make_jaxpr(fn, return_shape=True)(*avals)
    except OTOError:
        raise
    except Exception as error:
        raise UntraceableError(
            f"the function cannot be traced with these arguments: {type(error).__name__}: {error}"
        ) from error


class Evaluator:
    """Evaluates an opened program on narrow arrays."""

    def __init__(self, survivors: Survivors) -> None:
        self.survivors = survivors

    def run(self, body: Body, arrays: Sequence[Any]) -> list[Any]:
        """The results of ``body`` on ``arrays``, one for each of its inputs."""
        return self.run_in({}, body, arrays)

    def run_in(self, env: dict[Value, Any], body: Body, arrays: Sequence[Any]) -> list[Any]:
        env.update(zip(body.ins, arrays, strict=True))
        for node in body.nodes:
            outs = self._empty(node)
            if outs is None:
                ins = [self.read(env, value) for value in node.ins]
                outs = _RULES.get(node.name, _bind)(self, node, ins)
            env.update(zip(node.outs, outs, strict=True))
        return [self.read(env, value) for value in body.outs]

    def _empty(self, node: Node) -> list[Any] | None:
        """The results of an equation of which nothing stays; None where something does."""
        shapes = [self.survivors.shape(value) for value in node.outs]
        if not shapes or node.eqn.effects or not all(0 in shape for shape in shapes):
            return None
        if any(jnp.issubdtype(value.dtype, jax.dtypes.extended) for value in node.outs):
            return None
        return [
            jnp.zeros(shape, value.dtype) for shape, value in zip(shapes, node.outs, strict=True)
        ]

    def read(self, env: dict[Value, Any], value: Value) -> Any:
        """The narrow array of a value; a constant is cut where it meets cut axes."""
        if value in env:
            return env[value]
        return self.cut(value.const, value)

    def cut(self, array: Any, value: Value) -> Any:
        """A full-width array without the positions that are gone."""
        for axis, dim in enumerate(value.dims):
            kept = self.survivors.positions(dim)
            if kept is not None:
                array = jnp.take(
                    array, kept, axis=axis, unique_indices=True, indices_are_sorted=True
                )
        return array


def _bind(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    """The primitive itself, with its static shapes at the surviving widths."""
    out = node.eqn.primitive.bind(*ins, **narrow_params(node, run.survivors))
    return list(out) if node.eqn.primitive.multiple_results else [out]


def _at_full_width(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    """What tells positions apart by their index is made whole, then cut."""
    out = node.eqn.primitive.bind(*ins, **node.params)
    outs = list(out) if node.eqn.primitive.multiple_results else [out]
    return [run.cut(array, value) for array, value in zip(outs, node.outs, strict=True)]


def _call(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    return run.run(node.bodies[0], ins)


def _remat(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    fn = jax.checkpoint(
        lambda *arrays: run.run(node.bodies[0], arrays),
        prevent_cse=node.params["prevent_cse"],
        policy=node.params["policy"],
    )
    return list(fn(*ins))


def _scan(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    params = node.params
    consts, carries = scan_counts(node)

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = run.run(node.bodies[0], [*ins[:consts], *carry, *xs])
        return outs[:carries], outs[carries:]

    carry, ys = jax.lax.scan(
        step,
        list(ins[consts : consts + carries]),
        list(ins[consts + carries :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys]


def _while(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    cond, body = node.bodies
    first = node.params["cond_nconsts"]
    second = first + node.params["body_nconsts"]
    return list(
        jax.lax.while_loop(
            lambda carry: run.run(cond, [*ins[:first], *carry])[0],
            lambda carry: run.run(body, [*ins[first:second], *carry]),
            list(ins[second:]),
        )
    )


def _cond(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    branches = [lambda *ops, body=body: run.run(body, ops) for body in node.bodies]
    return list(jax.lax.switch(ins[0], branches, *ins[1:]))


def _custom_jvp(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
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

        return call_narrow(
            derivative,
            [*avals, *(avals[k] for k in smooth)],
            [*kept, *(kept[k] for k in smooth)],
            [*primals, *(tangents[k] for k in smooth)],
        )

    fn.defjvp(jvp)
    return list(fn(*ins))


def _custom_vjp(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
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
            call_narrow(
                derivative,
                [
                    *avals,
                    *(out_avals[k] for k in smooth),
                ],
                [*kept, *(outs_kept[k] for k in smooth)],
                [*arrays, *(cotangents[k] for k in smooth)],
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


_RULES: dict[str, Callable[[Evaluator, Node, list[Any]], list[Any]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "custom_lin", "composite"), _call),
    **dict.fromkeys(("remat", "remat2", "checkpoint"), _remat),
    "custom_jvp_call": _custom_jvp,
    **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), _custom_vjp),
    **dict.fromkeys((*DRAWS, "iota"), _at_full_width),
}
