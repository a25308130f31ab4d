"""Primitives that rearrange positions: reshape, transpose, concatenate, pad, ..."""

from __future__ import annotations

import math
from collections.abc import Iterator

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Dim, Dims
from oto_jax.zigs.program import Node


def broadcast_in_dim(node: Node) -> list[Dims]:
    """Axes that are not stretched keep their dimension."""
    value, (shape,) = node.ins[0], node.out_shapes
    out = list(d.new_dims(shape))
    for axis, to in enumerate(node.params["broadcast_dimensions"]):
        if value.shape[axis] == shape[to]:
            out[to] = value.dims[axis]
    return [tuple(out)]


def reshape_blocks(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[range, range]]:
    """The smallest runs of axes that a reshape maps onto each other, in order."""
    i = j = 0
    while i < len(before) or j < len(after):
        i0, j0 = i, j
        left = right = 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                raise AssertionError(f"{before} cannot be reshaped to {after}")
        yield range(i0, i), range(j0, j)


def reshape(node: Node) -> list[Dims]:
    """Merge axes into products, split them into factors."""
    value, (shape,) = node.ins[0], node.out_shapes
    if 0 in shape or node.params.get("dimensions") is not None:
        return _opaque(node)
    out: list[Dim] = []
    for ins, outs in reshape_blocks(value.shape, shape):
        dims = tuple(value.dims[i] for i in ins)
        out.extend(_refactor(node, dims, tuple(shape[j] for j in outs)))
    return [tuple(out)]


def _refactor(node: Node, dims: Dims, sizes: tuple[int, ...]) -> Iterator[Dim]:
    """Write the product of ``dims`` with factors of the given sizes."""
    rest: Dim = d.product(dims)
    factors: list[Dim] = []
    for size in reversed(sizes):
        factored = d.factor_right(
            rest, size, node.because("a reshape divides the axis in unequal parts")
        )
        if factored is None:
            reason = "a reshape cuts across the axis"
            for dim in dims:
                node.freeze(dim, reason)
            yield from (node.frozen(size, reason) for size in sizes)
            return
        rest, factor = factored
        factors.append(factor)
    yield from reversed(factors)


def _opaque(node: Node) -> list[Dims]:
    reason = f"{node.name} of a kind that has no rule"
    for dim in node.ins[0].dims:
        node.freeze(dim, reason)
    return [tuple(node.frozen(size, reason) for size in shape) for shape in node.out_shapes]


def transpose(node: Node) -> list[Dims]:
    """Axes in another order."""
    return [tuple(node.ins[0].dims[i] for i in node.params["permutation"])]


def squeeze(node: Node) -> list[Dims]:
    """Axes of size 1 go."""
    dropped = {i % len(node.ins[0].shape) for i in node.params["dimensions"]}
    return [tuple(dim for i, dim in enumerate(node.ins[0].dims) if i not in dropped)]


def expand_dims(node: Node) -> list[Dims]:
    """Axes of size 1 come."""
    out = list(node.ins[0].dims)
    for axis in sorted(node.params["dimensions"]):
        out.insert(axis, d.ONE)
    return [tuple(out)]


def concatenate(node: Node) -> list[Dims]:
    """Side by side along one axis, agreeing along the others."""
    axis = node.params["dimension"]
    out = list(node.ins[0].dims)
    for value in node.ins[1:]:
        for k, dim in enumerate(value.dims):
            if k != axis:
                node.unify(out[k], dim)
    out[axis] = d.concat(value.dims[axis] for value in node.ins)
    return [tuple(out)]


def stack(node: Node) -> list[Dims]:
    """Side by side along a new axis, agreeing along the others."""
    first = node.ins[0].dims
    for value in node.ins[1:]:
        for left, right in zip(first, value.dims, strict=True):
            node.unify(left, right)
    axis = node.params["axis"]
    return [(*first[:axis], d.concat([d.ONE] * len(node.ins)), *first[axis:])]


def unstack(node: Node) -> list[Dims]:
    """The axis that is taken apart stays whole."""
    axis = node.params["axis"]
    dims = node.ins[0].dims
    node.freeze(dims[axis], "the axis is taken apart position by position")
    return [(*dims[:axis], *dims[axis + 1 :])] * len(node.out_shapes)


def pad(node: Node) -> list[Dims]:
    """Padding at the ends is a concatenation with new positions."""
    (shape,) = node.out_shapes
    out: list[Dim] = []
    for dim, size, (low, high, interior) in zip(
        node.ins[0].dims, shape, node.params["padding_config"], strict=True
    ):
        if interior or low < 0 or high < 0:
            reason = "padding between positions, or cropping"
            node.freeze(dim, reason)
            out.append(node.frozen(size, reason))
        elif low or high:
            out.append(d.concat((_new(int(low)), dim, _new(int(high)))))
        else:
            out.append(dim)
    return [tuple(out)]


def _new(size: int) -> Dim:
    return d.new_dim(size) if size else d.Atom(0)


def tile(node: Node) -> list[Dims]:
    """Repetition as a whole is a product."""
    dims = node.ins[0].dims
    return [
        tuple(
            d.product((d.new_dim(int(count)), dim))
            for count, dim in zip(node.params["reps"], dims, strict=True)
        )
    ]


def rev(node: Node) -> list[Dims]:
    """A reversed axis stays whole."""
    dims = node.ins[0].dims
    for axis in node.params["dimensions"]:
        node.freeze(dims[axis], "the axis is reversed")
    return [dims]


def split(node: Node) -> list[Dims]:
    """``lax.split``: equal to slices side by side."""
    axis = node.params["axis"]
    dims = node.ins[0].dims
    rest: Dim | None = dims[axis]
    out: list[Dims] = []
    for size in node.params["sizes"]:
        piece: Dim
        pieces = d.split(rest, int(size)) if rest is not None else None
        if pieces is None:
            reason = "split inside a unit"
            node.freeze(dims[axis], reason)
            piece, rest = node.frozen(int(size), reason), None
        else:
            piece, rest = pieces
        out.append((*dims[:axis], piece, *dims[axis + 1 :]))
    return out


def slice_(node: Node) -> list[Dims]:
    """A slice is a part of a concatenation."""
    value = node.ins[0]
    strides = node.params["strides"] or (1,) * len(value.shape)
    return [
        tuple(
            _slice_axis(node, dim, size, start, limit, stride)
            for dim, size, start, limit, stride in zip(
                value.dims,
                value.shape,
                node.params["start_indices"],
                node.params["limit_indices"],
                strides,
                strict=True,
            )
        )
    ]


def _slice_axis(node: Node, dim: Dim, size: int, start: int, limit: int, stride: int) -> Dim:
    if (start, limit, stride) == (0, size, 1):
        return dim
    count = max(0, math.ceil((limit - start) / stride))
    if stride > 1 and size % stride == 0 and count == size // stride:
        factored = d.factor_right(dim, stride, node.because("strided slice"))
        if factored is not None:
            node.freeze(factored[1], "a strided slice picks single positions")
            return factored[0]
    if stride == 1:
        pieces = d.split(dim, start)
        middle = pieces and d.split(pieces[1], count)
        if middle:
            return middle[0]
    reason = "a slice picks positions one by one"
    node.freeze(dim, reason)
    return node.frozen(count, reason)


RULES = {
    "broadcast_in_dim": broadcast_in_dim,
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "expand_dims": expand_dims,
    "concatenate": concatenate,
    "stack": stack,
    "unstack": unstack,
    "pad": pad,
    "tile": tile,
    "rev": rev,
    "split": split,
    "slice": slice_,
}
