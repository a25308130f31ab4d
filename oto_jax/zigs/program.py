"""A traced program with a dimension on every axis of every value.

It is the jaxpr with its call-like equations opened up: a tree of `Node`s over `Value`s, made by
`oto_jax.zigs.walk`. The proof (`proof`), the roles (`roles`) and narrow evaluation
(`oto_jax.prune.evaluator`) all read it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

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


Opener = Callable[[Any, Sequence[Any], Sequence[Value]], Body]
"""Walks a jaxpr with these constants on these values."""


class Node:
    """One equation over values; the rule sees the world through it."""

    __slots__ = ("_opener", "bodies", "eqn", "index_axes", "ins", "outs")

    def __init__(self, eqn: Any, ins: list[Value], opener: Opener) -> None:
        self.eqn = eqn
        self.ins = ins
        self._opener = opener
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
        return [shape_of(var.aval) for var in self.eqn.outvars]

    def open(self, jaxpr: Any, ins: Sequence[Value]) -> Body:
        """Open a jaxpr of the equation, closed or not, on values; it becomes one of the bodies."""
        consts = getattr(jaxpr, "consts", ())
        body = self._opener(getattr(jaxpr, "jaxpr", jaxpr), consts, ins)
        self.bodies.append(body)
        return body

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


def shape_of(aval: Any) -> tuple[int, ...]:
    """The shape of what a variable stands for; keys and tokens have none."""
    return tuple(getattr(aval, "shape", ()))
