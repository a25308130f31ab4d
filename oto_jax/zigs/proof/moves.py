"""Primitives that move positions, or pick some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import lax

from oto_jax.zigs import dims as d
from oto_jax.zigs import states as st
from oto_jax.zigs.dims import Atom, Dim
from oto_jax.zigs.program import Node
from oto_jax.zigs.proof.prover import Prover, Rule
from oto_jax.zigs.rules import indexing, shapes
from oto_jax.zigs.states import INFINITE, UNKNOWN, State

AxisMap = Callable[[Node], list[tuple[int, int, int, int]]]
"""(operand, its axis, result, its axis) for every axis that passes through."""


def moved(axis_map: AxisMap, combine: bool = False) -> Callable[[Prover, Node], None]:
    """Carry states along an axis map; where several operands feed one axis, join them."""

    def rule(p: Prover, node: Node) -> None:
        found: dict[tuple[int, int, Atom], State] = {}
        for operand, axis, result, to in axis_map(node):
            value, out = node.ins[operand], node.outs[result]
            mine = set(p.atoms(value.dims[axis]))
            for atom in p.atoms(out.dims[to]):
                if atom in mine:
                    state = p.state(value, axis, atom)
                    key = (result, to, atom)
                    found[key] = st.join(found[key], state) if key in found else state
        for (result, to, atom), state in found.items():
            p.set(node.outs[result], to, atom, state)
        uniform = {p.uniform_state(value) for value in node.ins[: 1 if not combine else None]}
        if len(uniform) == 1 and isinstance(only := uniform.pop(), float):
            for out in node.outs:
                p.uniform[out] = only
        if node.ins and node.ins[0] in p.sums:
            for out in node.outs:
                p.sums[out] = p.sums[node.ins[0]]

    return rule


def _same_axes(node: Node) -> list[tuple[int, int, int, int]]:
    return [
        (0, axis, result, axis)
        for result in range(len(node.outs))
        for axis in range(len(node.ins[0].shape))
    ]


def _own_axes(node: Node) -> list[tuple[int, int, int, int]]:
    """Operand k becomes result k."""
    return [(k, axis, k, axis) for k in range(len(node.outs)) for axis in range(rank_of(node, k))]


def rank_of(node: Node, operand: int) -> int:
    """The rank of an operand."""
    return len(node.ins[operand].shape)


def _all_same_axes(node: Node) -> list[tuple[int, int, int, int]]:
    return [(k, axis, 0, axis) for k in range(len(node.ins)) for axis in range(rank_of(node, k))]


def _transpose(node: Node) -> list[tuple[int, int, int, int]]:
    return [(0, axis, 0, to) for to, axis in enumerate(node.params["permutation"])]


def _reshape(node: Node) -> list[tuple[int, int, int, int]]:
    before, after = node.ins[0].shape, node.outs[0].shape
    if 0 in after:
        return []
    return [
        (0, i, 0, j)
        for ins, outs in shapes.reshape_blocks(before, after)
        for i in ins
        for j in outs
    ]


def _broadcast_in_dim(node: Node) -> list[tuple[int, int, int, int]]:
    pairs = enumerate(node.params["broadcast_dimensions"])
    return [(0, i, 0, j) for i, j in pairs if node.ins[0].shape[i] == node.outs[0].shape[j]]


def _squeeze(node: Node) -> list[tuple[int, int, int, int]]:
    rank = rank_of(node, 0)
    dropped = {i % rank for i in node.params["dimensions"]}
    kept = [i for i in range(rank) if i not in dropped]
    return [(0, i, 0, j) for j, i in enumerate(kept)]


def _expand_dims(node: Node) -> list[tuple[int, int, int, int]]:
    new = set(node.params["dimensions"])
    kept = [j for j in range(len(node.outs[0].shape)) if j not in new]
    return [(0, i, 0, j) for i, j in enumerate(kept)]


def _stack(node: Node) -> list[tuple[int, int, int, int]]:
    """Every operand's axes, moved by one behind the new one."""
    new = node.params["axis"]
    axes = range(rank_of(node, 0))
    return [(k, i, 0, i + (i >= new)) for k in range(len(node.ins)) for i in axes]


def _unstack(node: Node) -> list[tuple[int, int, int, int]]:
    gone = node.params["axis"]
    kept = [i for i in range(rank_of(node, 0)) if i != gone]
    return [(0, i, r, j) for r in range(len(node.outs)) for j, i in enumerate(kept)]


def reduced_axes(node: Node) -> list[tuple[int, int, int, int]]:
    """The axes that a reduction leaves."""
    kept = [i for i in range(rank_of(node, 0)) if i not in node.params["axes"]]
    return [(0, i, r, j) for r in range(len(node.outs)) for j, i in enumerate(kept)]


def _gathered(node: Node) -> list[tuple[int, int, int, int]]:
    dn = node.params["dimension_numbers"]
    skipped = (*dn.collapsed_slice_dims, *dn.operand_batching_dims)
    kept = [i for i in range(rank_of(node, 0)) if i not in skipped]
    windows = [(0, i, 0, j) for i, j in zip(kept, dn.offset_dims, strict=True)]
    batch = [j for j in range(len(node.outs[0].shape)) if j not in dn.offset_dims]
    pairs = zip(dn.operand_batching_dims, dn.start_indices_batching_dims, strict=True)
    return windows + [(0, i, 0, batch[at]) for i, at in pairs]


def _gather(p: Prover, node: Node) -> None:
    """A moved slice; where it is asked for, a number stands in for what is out of bounds.

    By default that number is NaN, or the farthest integer: indices are then taken to be in bounds,
    as in any embedding.
    """
    moved(_gathered)(p, node)
    fill, out = node.params["fill_value"], node.outs[0]
    fills = node.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP
    if not fills or fill is None or _marks_an_error(fill, out.dtype):
        return
    for axis, dim in enumerate(out.dims):
        for atom in p.atoms(dim):
            joined = st.join(p.state(out, axis, atom), float(fill))
            p.known.setdefault(out, {})[axis, atom] = joined
    if p.uniform_state(out) != float(fill):
        p.uniform[out] = UNKNOWN


def _marks_an_error(fill: Any, dtype: Any) -> bool:
    """Whether a fill value is the one that JAX takes where none is given."""
    kind = getattr(dtype, "kind", "V")
    if kind in "iu":
        limits = np.iinfo(dtype)
        return bool(fill == (limits.min if kind == "i" else limits.max))
    return bool(kind != "b" and np.isnan(fill))


def _top_k(p: Prover, node: Node) -> None:
    """The largest of zeros is zero; their places are unknown."""
    moved(lambda node: [(0, axis, 0, axis) for axis in range(rank_of(node, 0))])(p, node)
    p.uniform.pop(node.outs[1], None)


def _pad(p: Prover, node: Node) -> None:
    """A zeroed slice stays zero only if what is padded into it is zero too."""
    value, out = node.ins[0], node.outs[0]
    fill = p.uniform_state(node.ins[1])
    padding = node.params["padding_config"]
    padded = [k for k, of_axis in enumerate(padding) if any(of_axis)]
    for axis, dim in enumerate(out.dims):
        mine = set(p.atoms(value.dims[axis]))
        # Padded along another axis, or at positions of the same units along this one.
        filled = mine if any(k != axis for k in padded) else set[Atom]()
        if axis in padded:
            low = padding[axis][0]
            filled = filled | _atoms_outside(dim, low, low + value.shape[axis])
        for atom in p.atoms(dim):
            state = p.state(value, axis, atom) if atom in mine else fill
            p.set(out, axis, atom, st.join(state, fill) if atom in filled else state)
    if p.uniform_state(value) == fill and isinstance(fill, float):
        p.uniform[out] = fill


def _atoms_outside(dim: Dim, start: int, stop: int) -> set[Atom]:
    """The atoms with units at positions before ``start`` or from ``stop`` on."""
    found = set()
    for atom, run in d.runs(dim):
        positions = run.positions()
        if ((positions < start) | (positions >= stop)).any():
            found.add(atom)
    return found


def _updated(p: Prover, node: Node) -> None:
    """dynamic_update_slice and scatter: what was there joined with what is written."""
    operand, out = node.ins[0], node.outs[0]
    update = node.ins[1] if node.name == "dynamic_update_slice" else node.ins[2]
    if node.name in indexing.SCATTERS:
        _require_nothing_placed(p, node)
    if node.name == "scatter" and node.params["update_jaxpr"] is not None:
        # A function of what is there is written, `x.at[i].apply(f)`: it may have a pole.
        for axis, dim in enumerate(out.dims):
            for atom in p.atoms(dim):
                p.set(out, axis, atom, INFINITE)
        return
    for axis, dim in enumerate(out.dims):
        for atom in p.atoms(dim):
            written = {
                p.state(update, k, atom)
                for k, other in enumerate(update.dims)
                if atom in p.atoms(other)
            } or {p.uniform_state(update)}
            state = p.state(operand, axis, atom)
            for other_state in written:
                state = st.join(state, other_state)
            # A scatter may combine what it writes with what is there; zero with zero stays zero.
            p.set(out, axis, atom, state if state in (0.0, INFINITE) else UNKNOWN)


def _require_nothing_placed(p: Prover, node: Node) -> None:
    """Units along an axis of the indices end up wherever these say: a zero may only be added."""
    dn, updates = node.params["dimension_numbers"], node.ins[2]
    batch = [i for i in range(len(updates.dims)) if i not in dn.update_window_dims]
    own = {batch[at] for at in dn.scatter_indices_batching_dims}  # One place for each unit.
    for axis in batch:
        if axis in own:
            continue
        if node.name in ("scatter-add", "scatter-sub"):
            p.require_zero(node, updates, axis)
            continue
        for atom in p.atoms(updates.dims[axis]):
            state = p.state(updates, axis, atom)
            p.block(atom, node, state, "places it at a computed index")


RULES: dict[str, Rule] = {
    **dict.fromkeys(("slice", "split", "rev", "dynamic_slice", "tile"), moved(_same_axes)),
    "concatenate": moved(_all_same_axes, combine=True),
    "stack": moved(_stack, combine=True),
    "unstack": moved(_unstack),
    **dict.fromkeys(("optimization_barrier", "device_put"), moved(_own_axes, combine=True)),
    "transpose": moved(_transpose),
    "reshape": moved(_reshape),
    "broadcast_in_dim": moved(_broadcast_in_dim),
    "squeeze": moved(_squeeze),
    "expand_dims": moved(_expand_dims),
    "gather": _gather,
    "sort": moved(_own_axes, combine=True),
    "top_k": _top_k,
    "pad": _pad,
    **dict.fromkeys(("dynamic_update_slice", *indexing.SCATTERS), _updated),
}
