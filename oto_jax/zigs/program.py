"""A traced program with a dimension on every axis of every value.

`Program` is the jaxpr with its call-like equations opened up: a tree of `Node`s over `Value`s. The
first pass, here, walks it once and lets each primitive's rule (`oto_jax.zigs.rules`) say how the
dimensions of what it makes follow from those it is given. The proof (`zeros`), the roles (`roles`)
and narrow evaluation (`oto_jax.prune.narrow`) all read the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Dim, Dims
from oto_jax.zigs.source import source_line


class Value:
    """An array of the program: its shape, the dimension of each axis and, if constant, itself."""

    __slots__ = ("const", "dims", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any, dims: Dims, const: Any = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.dims = dims
        self.const = const

    def __repr__(self) -> str:
        return f"Value{self.dims}"


@dataclasses.dataclass(slots=True)
class Body:
    """A jaxpr inside an equation, opened up: `consts` are its closed-over arrays."""

    consts: list[Value]
    ins: list[Value]
    nodes: list[Node]
    outs: list[Value]
    jaxpr: Any


class Node:
    """One equation over values; the rule sees the world through it."""

    __slots__ = ("bodies", "eqn", "index_axes", "ins", "outs")

    def __init__(self, eqn: Any, ins: list[Value]) -> None:
        self.eqn = eqn
        self.ins = ins
        self.outs: list[Value] = []
        self.bodies: list[Body] = []
        self.index_axes: tuple[Dim, ...] = ()
        """Dimensions whose positions this node tells apart by their index (iota, random bits)."""

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        return self.eqn.params

    @property
    def out_shapes(self) -> list[tuple[int, ...]]:
        return [_shape(var.aval) for var in self.eqn.outvars]

    def because(self, text: str) -> d.Reason:
        """A reason that names this equation's place in the model's source."""
        return lambda: (text, source_line(self.eqn))

    def unify(self, left: Dim, right: Dim) -> None:
        if left is not right:
            d.unify(left, right, self.because(f"{self.name} joins axes that cannot be aligned"))

    def freeze(self, dim: Dim, text: str) -> None:
        d.freeze(dim, self.because(text))

    def frozen(self, size: int, text: str) -> Dim:
        """A new dimension that has to stay whole."""
        return d.new_dim(size, self.because(text))


def _shape(aval: Any) -> tuple[int, ...]:
    return tuple(getattr(aval, "shape", ()))


def literal_value(literal: Any) -> Value:
    """A number written into the program."""
    shape = np.shape(literal.val)
    return Value(shape, _dtype(literal.aval), d.new_dims(shape), literal.val)


def const_value(array: Any) -> Value:
    """An array that the program closes over."""
    shape = tuple(np.shape(array))
    return Value(shape, getattr(array, "dtype", None), d.new_dims(shape), array)


def _dtype(aval: Any) -> Any:
    return getattr(aval, "dtype", None)


def open_jaxpr(jaxpr: Any, consts: Sequence[Any], ins: Sequence[Value]) -> Body:
    """Walk a jaxpr on values whose dimensions are known, in order; see the module's docstring."""
    const_values = [c if isinstance(c, Value) else const_value(c) for c in consts]
    env: dict[Any, Value] = dict(zip(jaxpr.constvars, const_values, strict=True))
    env.update(zip(jaxpr.invars, ins, strict=True))
    body = Body(const_values, list(ins), [], [], jaxpr)
    for eqn in jaxpr.eqns:
        values = [literal_value(v) if isinstance(v, jex.Literal) else env[v] for v in eqn.invars]
        node = Node(eqn, values)
        _dimension(node)
        env.update(zip(eqn.outvars, node.outs, strict=True))
        body.nodes.append(node)
    body.outs = [literal_value(v) if isinstance(v, jex.Literal) else env[v] for v in jaxpr.outvars]
    return body


def _dimension(node: Node) -> None:
    """Give the node's results their dimensions."""
    from oto_jax.zigs.rules import RULES, unknown

    out_dims = RULES.get(node.name, unknown)(node)
    node.outs = [
        Value(_shape(var.aval), _dtype(var.aval), out)
        for var, out in zip(node.eqn.outvars, out_dims, strict=True)
    ]
