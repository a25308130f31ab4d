"""An equation's parameters at the surviving widths: the static shapes in them, made smaller.

Most primitives hold no shape and keep their parameters. This is data only: `narrow` binds with it,
and `same_program` compares a rebuilt module's program with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from oto_jax.prune.survivors import Survivors
from oto_jax.zigs.program import Node

Params = dict[str, Any]


def narrow_params(node: Node, survivors: Survivors) -> Params:
    """The parameters that ``node`` has when only the surviving positions are there."""
    rule = _RULES.get(node.name)
    if rule is None:
        return node.params
    return {**node.params, **rule(node, survivors)}


def _out_shape(name: str) -> Callable[[Node, Survivors], Params]:
    return lambda node, survivors: {name: survivors.shape(node.outs[0])}


def _slice(node: Node, survivors: Survivors) -> Params:
    value, out = node.ins[0], node.outs[0]
    strides = node.params["strides"] or (1,) * len(value.shape)
    starts, limits = [], []
    for k, dim in enumerate(value.dims):
        start = node.params["start_indices"][k]
        limit = node.params["limit_indices"][k]
        count = survivors.count(out.dims[k])
        kept = survivors.positions(dim)
        if kept is not None:
            # A stride over cut units picks within each of them, so what precedes is `start` still.
            start = start if strides[k] > 1 else int(np.searchsorted(kept, start))
            limit = start + (count - 1) * strides[k] + 1 if count else start
        starts.append(start)
        limits.append(limit)
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def _pad(node: Node, survivors: Survivors) -> Params:
    value, out = node.ins[0], node.outs[0]
    config = []
    for k, (low, high, interior) in enumerate(node.params["padding_config"]):
        kept = survivors.positions(out.dims[k])
        if kept is not None and (low or high):
            low, high = (
                int((kept < low).sum()),
                int((kept >= low + value.shape[k]).sum()),
            )
        config.append((low, high, interior))
    return {"padding_config": tuple(config)}


def _split(node: Node, survivors: Survivors) -> Params:
    axis = node.params["axis"]
    return {"sizes": tuple(survivors.count(out.dims[axis]) for out in node.outs)}


def _tile(node: Node, survivors: Survivors) -> Params:
    before, after = survivors.shape(node.ins[0]), survivors.shape(node.outs[0])
    return {"reps": tuple(b // a if a else 1 for a, b in zip(before, after, strict=True))}


def _conv(node: Node, survivors: Survivors) -> Params:
    if node.params["feature_group_count"] == 1:
        return {}
    spec = node.params["dimension_numbers"]
    features = survivors.count(node.ins[0].dims[spec.lhs_spec[1]])
    inner = survivors.count(node.ins[1].dims[spec.rhs_spec[1]])
    return {"feature_group_count": features // inner if inner else 1}


def _slice_sizes(node: Node, survivors: Survivors) -> Params:
    """Axes taken whole stay whole; the others are not cut."""
    value = node.ins[0]
    sizes = zip(value.dims, value.shape, node.params["slice_sizes"], strict=True)
    return {
        "slice_sizes": tuple(
            survivors.count(dim) if size == whole else size for dim, whole, size in sizes
        )
    }


_RULES: dict[str, Callable[[Node, Survivors], Params]] = {
    "broadcast_in_dim": _out_shape("shape"),
    "reshape": _out_shape("new_sizes"),
    "iota": _out_shape("shape"),
    "random_bits": _out_shape("shape"),
    "random_gamma": lambda node, survivors: {},
    "rng_uniform": _out_shape("shape"),
    "slice": _slice,
    "pad": _pad,
    "split": _split,
    "tile": _tile,
    "conv_general_dilated": _conv,
    "gather": _slice_sizes,
    "dynamic_slice": _slice_sizes,
}
