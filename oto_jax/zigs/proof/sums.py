"""Primitives that sum positions away: here a zeroed unit has to be exactly zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from oto_jax.zigs import states as st
from oto_jax.zigs.dims import Atom
from oto_jax.zigs.products import contracted_axes, product_axes
from oto_jax.zigs.program import Node
from oto_jax.zigs.proof.moves import moved, rank_of, reduced_axes
from oto_jax.zigs.proof.prover import Prover, Rule
from oto_jax.zigs.rules import contractions
from oto_jax.zigs.states import INFINITE, UNKNOWN


def _reduce_sum(p: Prover, node: Node) -> None:
    value, out = node.ins[0], node.outs[0]
    summed: list[Atom] = []
    for axis in node.params["axes"]:
        p.require_zero(node, value, axis)
        summed += p.atoms(value.dims[axis])
    for _, axis, _, to in reduced_axes(node):
        for atom in p.atoms(out.dims[to]):
            state = p.state(value, axis, atom)
            p.set(out, to, atom, state if state in (0.0, INFINITE) else UNKNOWN)
    if p.uniform_state(value) == 0.0:
        p.uniform[out] = 0.0
    if summed:
        p.sums[out] = frozenset(summed)


def _reduce_other(p: Prover, node: Node) -> None:
    """Maxima, products, ...: a unit that is left out could have been the one that counts."""
    for axis in node.params["axes"]:
        for atom in p.atoms(node.ins[0].dims[axis]):
            p.block(atom, node, p.state(node.ins[0], axis, atom), "compares it with the others")
    if node.name in ("reduce_max", "reduce_min"):
        moved(reduced_axes)(p, node)


def _cumulative(p: Prover, node: Node) -> None:
    axis = node.params["axis"]
    value, out = node.ins[0], node.outs[0]
    if node.name == "cumsum":
        p.require_zero(node, value, axis)
    else:
        for atom in p.atoms(value.dims[axis]):
            p.block(atom, node, p.state(value, axis, atom), "runs along the axis")
    keeps_zero = node.name != "cumlogsumexp"  # which counts: log(1 + 1 + ...)
    for k, dim in enumerate(out.dims):
        if k != axis:
            for atom in p.atoms(dim):
                state = p.state(value, k, atom)
                kept = INFINITE if state is INFINITE else UNKNOWN
                p.set(out, k, atom, 0.0 if state == 0.0 and keeps_zero else kept)


def _window(p: Prover, node: Node) -> None:
    """A window over nothing but padding holds the reduction's start: infinite, or 0 for sums."""
    value, out = node.ins[0], node.outs[0]
    barren = node.name != "reduce_window_sum" and _has_empty_window(node.params, value.shape)
    for axis, dim in enumerate(out.dims):
        for atom in p.atoms(dim):
            state = INFINITE if barren else p.state(value, axis, atom)
            p.set(out, axis, atom, state if state in (0.0, INFINITE) else UNKNOWN)


def _fft(p: Prover, node: Node) -> None:
    """Along other axes than its own a transform of zeros is zero; its own are whole already."""
    value, out = node.ins[0], node.outs[0]
    for axis in range(rank_of(node, 0) - len(node.params["fft_lengths"])):
        for atom in p.atoms(out.dims[axis]):
            state = p.state(value, axis, atom)
            p.set(out, axis, atom, state if state in (0.0, INFINITE) else UNKNOWN)


def _has_empty_window(params: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether some window of a pooling lies wholly in padding, or between dilated entries."""
    ones = (1,) * len(shape)
    base = params.get("base_dilation") or ones
    spread = params.get("window_dilation") or ones
    rows = zip(
        shape,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        base,
        spread,
        strict=True,
    )
    return any(_misses(*row) for row in rows)


def _misses(
    size: int, window: int, stride: int, padding: tuple[int, int], base: int, spread: int
) -> bool:
    low, high = padding
    real = np.zeros(low + max((size - 1) * base + 1, 0) + high if size else low + high, bool)
    real[low : low + (size - 1) * base + 1 : base] = True
    starts = np.arange(0, len(real) - (window - 1) * spread, stride)
    return not real[starts[:, None] + np.arange(window) * spread].any(1).all()


def _product(p: Prover, node: Node) -> None:
    """dot_general and convolutions: a sum of products over the contracted axes."""
    gone = contracted_axes(node)
    assert gone is not None
    lhs, rhs = node.ins[:2]
    for i, j in zip(*gone, strict=True):
        # The right operand's axis, since a grouped convolution does not sum over its groups.
        for atom in p.atoms(rhs.dims[j]):
            pair = (p.state(lhs, i, atom), p.state(rhs, j, atom))
            if st.elementwise("mul", {}, pair, False, node.outs[0].dtype) != 0.0:
                worst = next((s for s in pair if s != 0.0), UNKNOWN)
                p.block(atom, node, worst, "sums over the axis")
    out = node.outs[0]
    for to, sides in enumerate(product_axes(node)):
        for atom in p.atoms(out.dims[to]):
            states = [p.state(node.ins[k], axis, atom) for k, axis in sides(atom)]
            if 0.0 in states and INFINITE not in states:
                p.set(out, to, atom, 0.0)
            elif INFINITE in states:
                p.set(out, to, atom, INFINITE)


RULES: dict[str, Rule] = {
    "reduce_sum": _reduce_sum,
    **dict.fromkeys(
        (*(name for name in contractions.REDUCTIONS if name != "reduce_sum"), "argmax", "argmin"),
        _reduce_other,
    ),
    **dict.fromkeys(contractions.WINDOWS, _window),
    **dict.fromkeys(contractions.CUMULATIVE, _cumulative),
    "fft": _fft,
    "dot_general": _product,
    "conv_general_dilated": _product,
}
