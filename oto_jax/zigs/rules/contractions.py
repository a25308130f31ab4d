"""Primitives that sum positions away, or slide over them: dot, convolution, reductions, scans."""

from __future__ import annotations

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Dim, Dims
from oto_jax.zigs.program import Node


def dot_general(node: Node) -> list[Dims]:
    """Contracted and batched axes agree; free axes stay."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = node.params["dimension_numbers"]
    lhs, rhs = node.ins[:2]
    for i, j in zip((*lhs_contract, *lhs_batch), (*rhs_contract, *rhs_batch), strict=True):
        node.unify(lhs.dims[i], rhs.dims[j])
    out = [lhs.dims[i] for i in lhs_batch]
    out += [dim for i, dim in enumerate(lhs.dims) if i not in (*lhs_contract, *lhs_batch)]
    out += [dim for j, dim in enumerate(rhs.dims) if j not in (*rhs_contract, *rhs_batch)]
    return [tuple(out)]


def conv_general_dilated(node: Node) -> list[Dims]:
    """Features are contracted group by group; spatial positions are told apart by the window."""
    if node.params["batch_group_count"] != 1:
        return _opaque(node, "a convolution grouped over the batch")
    lhs, rhs = node.ins
    spec = node.params["dimension_numbers"]
    (shape,) = node.out_shapes
    out: list[Dim] = list(d.new_dims(shape))
    out[spec.out_spec[0]] = lhs.dims[spec.lhs_spec[0]]
    out[spec.out_spec[1]] = rhs.dims[spec.rhs_spec[0]]
    groups, features = node.params["feature_group_count"], lhs.dims[spec.lhs_spec[1]]
    if groups == 1:
        node.unify(features, rhs.dims[spec.rhs_spec[1]])
    else:
        _grouped(node, features, rhs.dims[spec.rhs_spec[1]], rhs.dims[spec.rhs_spec[0]], groups)
    for k in range(len(shape) - 2):
        i, w, o = spec.lhs_spec[k + 2], spec.rhs_spec[k + 2], spec.out_spec[k + 2]
        node.freeze(rhs.dims[w], "the window of a convolution")
        if _touches_one_position(node, k, rhs.shape[w]):
            out[o] = lhs.dims[i]
        else:
            node.freeze(lhs.dims[i], "a convolution slides along the axis")
            out[o] = node.frozen(shape[o], "a convolution slides along the axis")
    return [tuple(out)]


def _grouped(node: Node, features: Dim, inner: Dim, results: Dim, groups: int) -> None:
    """features = groups * inner, results = groups * (results per group)."""
    reason = node.because("a grouped convolution does not align with the axis")
    lhs = d.factor_right(features, features.size // groups, reason)
    rhs = d.factor_right(results, results.size // groups, reason)
    if lhs is None or rhs is None:
        for dim in (features, inner, results):
            d.freeze(dim, reason)
        return
    node.unify(lhs[1], inner)
    node.unify(lhs[0], rhs[0])


def _touches_one_position(node: Node, k: int, window: int) -> bool:
    params = node.params
    return (
        window == 1
        and params["window_strides"][k] == 1
        and tuple(params["padding"][k]) == (0, 0)
        and params["lhs_dilation"][k] == 1
    )


def reduce_(node: Node) -> list[Dims]:
    """The axes that are left."""
    axes = node.params["axes"]
    return [
        tuple(dim for i, dim in enumerate(value.dims) if i not in axes)
        for value in node.ins[: len(node.eqn.outvars)]
    ]


def arg_reduce(node: Node) -> list[Dims]:
    """The reduced axis is numbered, so it stays whole."""
    for axis in node.params["axes"]:
        node.freeze(node.ins[0].dims[axis], f"{node.name} returns positions of the axis")
    return reduce_(node)


def reduce_window(node: Node) -> list[Dims]:
    """Axes with a window of one position pass through."""
    params = node.params
    (shape,) = node.out_shapes
    ones = (1,) * len(shape)
    out: list[Dim] = []
    for k, (dim, size) in enumerate(zip(node.ins[0].dims, shape, strict=True)):
        one_position = (
            params["window_dimensions"][k] == 1
            and params["window_strides"][k] == 1
            and tuple(params["padding"][k]) == (0, 0)
            and (params.get("base_dilation") or ones)[k] == 1
        )
        if not one_position:
            node.freeze(dim, "a window slides along the axis")
            dim = node.frozen(size, "a window slides along the axis")
        out.append(dim)
    return [tuple(out)]


def cumulative(node: Node) -> list[Dims]:
    """A running sum (or product, ...) keeps its axes."""
    return [node.ins[0].dims]


def sort(node: Node) -> list[Dims]:
    """The sorted axis stays whole; operands are sorted together."""
    axis = node.params["dimension"]
    first = node.ins[0]
    for value in node.ins:
        node.freeze(value.dims[axis], "the axis is sorted")
        for left, right in zip(first.dims, value.dims, strict=True):
            node.unify(left, right)
    return [value.dims for value in node.ins]


def top_k(node: Node) -> list[Dims]:
    """The axis that is searched stays whole."""
    dims = list(node.ins[0].dims)
    axis = node.params.get("axis", -1) % len(dims)
    node.freeze(dims[axis], "top_k picks positions of the axis")
    dims[axis] = node.frozen(node.out_shapes[0][axis], "the places of top_k")
    return [tuple(dims), tuple(dims)]


def fft(node: Node) -> list[Dims]:
    """The transformed axes stay whole."""
    dims, (shape,) = list(node.ins[0].dims), node.out_shapes
    for axis in range(len(dims) - len(node.params["fft_lengths"]), len(dims)):
        node.freeze(dims[axis], "a Fourier transform mixes the axis")
        dims[axis] = node.frozen(shape[axis], "a Fourier transform mixes the axis")
    return [tuple(dims)]


def _opaque(node: Node, reason: str) -> list[Dims]:
    for value in node.ins:
        for dim in value.dims:
            node.freeze(dim, reason)
    return [tuple(node.frozen(size, reason) for size in shape) for shape in node.out_shapes]


REDUCTIONS = (
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod",
    "reduce_and", "reduce_or", "reduce_xor",
)  # fmt: skip
WINDOWS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")
CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")

RULES = {
    "dot_general": dot_general,
    "conv_general_dilated": conv_general_dilated,
    **dict.fromkeys(REDUCTIONS, reduce_),
    **dict.fromkeys(("argmax", "argmin"), arg_reduce),
    **dict.fromkeys(WINDOWS, reduce_window),
    **dict.fromkeys(CUMULATIVE, cumulative),
    "sort": sort,
    "top_k": top_k,
    "fft": fft,
}
