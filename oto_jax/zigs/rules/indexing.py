"""Primitives that pick or place positions by an index known only when the program runs."""

from __future__ import annotations

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Dim, Dims
from oto_jax.zigs.program import Node

PICKED = "positions are picked by a computed index"
PLACED = "positions are overwritten at a computed index"


def dynamic_slice(node: Node) -> list[Dims]:
    """An axis taken whole stays as it is; any other is frozen."""
    value = node.ins[0]
    out: list[Dim] = []
    for dim, size, count in zip(value.dims, value.shape, node.params["slice_sizes"], strict=True):
        if size != count:
            node.freeze(dim, PICKED)
            dim = node.frozen(count, PICKED)
        out.append(dim)
    return [tuple(out)]


def dynamic_update_slice(node: Node) -> list[Dims]:
    """Axes overwritten whole agree; others stay whole."""
    operand, update = node.ins[:2]
    for k, dim in enumerate(operand.dims):
        _match(node, dim, operand.shape[k], update.dims[k], update.shape[k], PLACED)
    return [operand.dims]


def _match(node: Node, left: Dim, size: int, right: Dim, other: int, reason: str) -> None:
    if size == other:
        node.unify(left, right)
    else:
        node.freeze(left, reason)
        node.freeze(right, reason)


def gather(node: Node) -> list[Dims]:
    """Whole slices pass through; the axes that the indices walk along are frozen."""
    operand, indices = node.ins
    dn = node.params["dimension_numbers"]
    (shape,) = node.out_shapes
    node.freeze(indices.dims[-1], "an index vector")
    window: list[Dim] = []
    for k, dim in enumerate(operand.dims):
        if k in dn.operand_batching_dims:
            at = dn.start_indices_batching_dims[dn.operand_batching_dims.index(k)]
            node.unify(dim, indices.dims[at])
            continue
        count = node.params["slice_sizes"][k]
        if count != operand.shape[k]:
            node.freeze(dim, PICKED)
            dim = node.frozen(count, PICKED)
        if k not in dn.collapsed_slice_dims:
            window.append(dim)
    batch = iter(indices.dims[:-1])
    windows = iter(window)
    return [tuple(next(windows) if k in dn.offset_dims else next(batch) for k in range(len(shape)))]


def scatter(node: Node) -> list[Dims]:
    """The counterpart of ``gather``, with or without a combining function."""
    operand, indices, updates = node.ins
    dn = node.params["dimension_numbers"]
    node.freeze(indices.dims[-1], "an index vector")
    windows = iter(dn.update_window_dims)
    for k, dim in enumerate(operand.dims):
        if k in dn.operand_batching_dims:
            at = dn.scatter_indices_batching_dims[dn.operand_batching_dims.index(k)]
            node.unify(dim, indices.dims[at])
        elif k in dn.inserted_window_dims:
            node.freeze(dim, PLACED)
        else:
            w = next(windows)
            _match(node, dim, operand.shape[k], updates.dims[w], updates.shape[w], PLACED)
    batch = [i for i in range(len(updates.dims)) if i not in dn.update_window_dims]
    for i, dim in zip(batch, indices.dims[:-1], strict=True):
        node.unify(updates.dims[i], dim)
    return [operand.dims]


def iota(node: Node) -> list[Dims]:
    """Counts along an axis: its positions are told apart by their index."""
    (shape,) = node.out_shapes
    dims = d.new_dims(shape)
    node.index_axes = (dims[node.params["dimension"]],)
    return [dims]


SCATTERS = ("scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max")

RULES = {
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "gather": gather,
    **dict.fromkeys(SCATTERS, scatter),
    "iota": iota,
}
