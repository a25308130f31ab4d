"""The first pass over a program: a dimension for every axis of every value.

It walks the jaxpr once, in order, and lets each primitive's rule (`oto_jax.zigs.rules`) say how the
dimensions of what it makes follow from those it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex

from oto_jax.zigs import dims as d
from oto_jax.zigs.program import Body, Node, Value, shape_of
from oto_jax.zigs.rules import RULES, unknown


def open_jaxpr(jaxpr: Any, consts: Sequence[Any], ins: Sequence[Value]) -> Body:
    """Walk a jaxpr on values whose dimensions are known, in order; see the module's docstring."""
    const_values = [c if isinstance(c, Value) else _const_value(c) for c in consts]
    env: dict[Any, Value] = dict(zip(jaxpr.constvars, const_values, strict=True))
    env.update(zip(jaxpr.invars, ins, strict=True))
    body = Body(const_values, list(ins), [], [], jaxpr)

    def read(var: Any) -> Value:
        return _literal_value(var) if isinstance(var, jex.Literal) else env[var]

    for eqn in jaxpr.eqns:
        node = Node(eqn, [read(var) for var in eqn.invars], open_jaxpr)
        _dimension(node)
        env.update(zip(eqn.outvars, node.outs, strict=True))
        body.nodes.append(node)
    body.outs = [read(var) for var in jaxpr.outvars]
    return body


def _dimension(node: Node) -> None:
    """Give the node's results their dimensions."""
    out_dims = RULES.get(node.name, unknown)(node)
    node.outs = [
        Value(shape_of(var.aval), _dtype(var.aval), out)
        for var, out in zip(node.eqn.outvars, out_dims, strict=True)
    ]


def _literal_value(literal: Any) -> Value:
    """A number written into the program."""
    shape = np.shape(literal.val)
    return Value(shape, _dtype(literal.aval), d.new_dims(shape), literal.val)


def _const_value(array: Any) -> Value:
    """An array that the program closes over."""
    shape = tuple(np.shape(array))
    return Value(shape, _dtype(array), d.new_dims(shape), array)


def _dtype(aval: Any) -> Any:
    return getattr(aval, "dtype", None)
