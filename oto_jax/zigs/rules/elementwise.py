"""Primitives that treat every position alike: operands and results share their dimensions."""

from __future__ import annotations

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Dims
from oto_jax.zigs.program import Node

NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz
complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv
erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le le_to
lgamma log log1p log2 logistic lt lt_to max min mul mulhi name ne neg nextafter not one_minus_square
or polygamma polynomial population_count pow real reduce_precision regularized_incomplete_beta rem
round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign
sin sinh sqrt square stop_gradient sub tan tanh xor zeta
""".split()


def elementwise(node: Node) -> list[Dims]:
    """Operands of size 1 along an axis, and scalars, are broadcast."""
    (shape,) = node.out_shapes
    rank = len(shape)
    out: list[d.Dim] = []
    for axis, size in enumerate(shape):
        if size == 1:
            out.append(d.ONE)
            continue
        found: d.Dim | None = None
        for value in node.ins:
            if len(value.shape) != rank or value.shape[axis] != size:
                continue
            if found is None:
                found = value.dims[axis]
            else:
                node.unify(found, value.dims[axis])
        out.append(d.new_dim(size) if found is None else found)
    return [tuple(out)]


def bitcast_convert_type(node: Node) -> list[Dims]:
    """Elementwise where the widths agree; else a new minor axis appears or goes."""
    (value,), (shape,) = node.ins, node.out_shapes
    if len(shape) == len(value.shape):
        return elementwise(node)
    if len(shape) > len(value.shape):
        return [(*value.dims, node.frozen(shape[-1], "bytes of a bit cast"))]
    node.freeze(value.dims[-1], "bytes of a bit cast")
    return [value.dims[:-1]]


def pass_through(node: Node) -> list[Dims]:
    """Every operand comes out as it went in (``optimization_barrier``, ``device_put``)."""
    return [value.dims for value in node.ins]


RULES = {
    **dict.fromkeys(NAMES, elementwise),
    "bitcast_convert_type": bitcast_convert_type,
    **dict.fromkeys(("optimization_barrier", "device_put"), pass_through),
}
