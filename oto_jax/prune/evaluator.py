"""Evaluates a program at the surviving widths: one equation after the other, on narrow arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from oto_jax.errors import OTOError, UntraceableError
from oto_jax.prune.narrow_params import narrow_params
from oto_jax.prune.survivors import Kept, Survivors
from oto_jax.zigs import dims as d
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.walk import open_jaxpr

Rule: TypeAlias = Callable[["Evaluator", Node, list[Any]], list[Any]]
"""The results of an equation, from the narrow arrays that it reads."""
Check: TypeAlias = Callable[[Body, Survivors, Any], None]
"""Looks at a program, what is cut of it, and the shapes of its outputs."""


def evaluate(
    fn: Callable[..., Any],
    avals: Sequence[Any],
    kept: Sequence[dict[int, Kept]],
    arrays: Sequence[Any],
    rules: Mapping[str, Rule],
    check: Check | None = None,
) -> Any:
    """Evaluate ``fn``, traced on full ``avals``, on arrays of which only ``kept`` is there.

    Args:
      fn: a function of arrays.
      avals: their full shapes and types.
      kept: for each, by axis, what stays of it.
      arrays: the narrow arrays.
      rules: by primitive, how to evaluate it; others are bound at the surviving widths.
      check: raises where the cut is not safe in this program.
    """
    closed, shapes = _trace(fn, avals)
    values = [Value(tuple(a.shape), a.dtype, d.new_dims(a.shape)) for a in avals]
    body = open_jaxpr(closed.jaxpr, closed.consts, values)
    survivors = Survivors()
    for number, (value, cuts) in enumerate(zip(values, kept, strict=True)):
        for axis, stays in cuts.items():
            survivors.assign(value.dims[axis], stays, f"argument {number}, axis {axis}")
    if check is not None:
        check(body, survivors, shapes)
    outs = Evaluator(survivors, rules).run(body, arrays)
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

    def __init__(self, survivors: Survivors, rules: Mapping[str, Rule]) -> None:
        self.survivors = survivors
        self.rules = rules

    def run(self, body: Body, arrays: Sequence[Any]) -> list[Any]:
        """The results of ``body`` on ``arrays``, one for each of its inputs."""
        return self.run_in({}, body, arrays)

    def run_in(self, env: dict[Value, Any], body: Body, arrays: Sequence[Any]) -> list[Any]:
        env.update(zip(body.ins, arrays, strict=True))
        for node in body.nodes:
            outs = self._empty(node)
            if outs is None:
                ins = [self.read(env, value) for value in node.ins]
                outs = self.rules.get(node.name, bind)(self, node, ins)
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


def bind(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    """The primitive itself, with its static shapes at the surviving widths."""
    out = node.eqn.primitive.bind(*ins, **narrow_params(node, run.survivors))
    return list(out) if node.eqn.primitive.multiple_results else [out]
