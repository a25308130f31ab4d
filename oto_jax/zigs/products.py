"""Matrix products and convolutions: the axes that they sum away, and what the others follow."""

from __future__ import annotations

from collections.abc import Callable

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Atom
from oto_jax.zigs.program import Node

Sides = Callable[[Atom], list[tuple[int, int]]]
"""The (operand, axis) pairs whose slice at a unit makes the result's slice at that unit."""


def contracted_axes(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes that a product sums away, for each of its two operands."""
    if node.name == "dot_general":
        lhs, rhs = node.params["dimension_numbers"][0]
        return tuple(lhs), tuple(rhs)
    if node.name == "conv_general_dilated":
        spec = node.params["dimension_numbers"]
        return (spec.lhs_spec[1],), (spec.rhs_spec[1],)
    return None


def product_axes(node: Node) -> list[Sides]:
    """What each axis of the result follows."""
    if node.name == "conv_general_dilated":
        return _convolution_axes(node)
    (lc, rc), (lb, rb) = node.params["dimension_numbers"]
    pairs = [[(0, i), (1, j)] for i, j in zip(lb, rb, strict=True)]
    pairs += [[(0, i)] for i in range(len(node.ins[0].shape)) if i not in (*lc, *lb)]
    pairs += [[(1, j)] for j in range(len(node.ins[1].shape)) if j not in (*rc, *rb)]
    return [_always(sides) for sides in pairs]


def _always(sides: list[tuple[int, int]]) -> Sides:
    return lambda _atom: sides


def _convolution_axes(node: Node) -> list[Sides]:
    spec = node.params["dimension_numbers"]
    lhs_features, rhs_inner, rhs_out = spec.lhs_spec[1], spec.rhs_spec[1], spec.rhs_spec[0]
    summed = set(d.atoms(node.ins[1].dims[rhs_inner]))
    grouped = node.params["feature_group_count"] > 1
    groups = set(d.atoms(node.ins[0].dims[lhs_features])) - summed if grouped else set()

    def channels(atom: Atom) -> list[tuple[int, int]]:
        # A feature group's result follows its input; any other input feature is summed away.
        own = [(0, lhs_features)] if atom in groups else []
        return [*own, (1, rhs_out)]

    found: dict[int, Sides] = {
        spec.out_spec[0]: _always([(0, spec.lhs_spec[0])]),
        spec.out_spec[1]: channels,
    }
    for o, i in zip(spec.out_spec[2:], spec.lhs_spec[2:], strict=True):
        found[o] = _always([(0, i)])
    return [found[k] for k in range(len(found))]
