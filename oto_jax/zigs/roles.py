"""Which parameter axes produce the units of an atom, and which only consume them.

A weight whose axis is summed away against data (the input axis of a dense layer) is a consumer: it
is cut along the axis, but need not be zero. A weight whose axis survives (its output axis, a bias,
a scale) is a producer: its slices form the group. Values computed from weights and constants alone
(a transposed, cast, normalised or masked kernel) are followed until they meet data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from oto_jax.zigs.dims import Atom, atoms
from oto_jax.zigs.products import contracted_axes, product_axes
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.rules import elementwise, shapes
from oto_jax.zigs.rules.control import scan_counts

Axis = tuple[int, int]
"""(number of the parameter, axis)"""
Sources = tuple[frozenset[Axis], ...]
"""For each axis of a value: the parameter axes it comes from."""

SAME_RANK = frozenset(
    (*elementwise.NAMES, "slice", "split", "pad", "concatenate", "rev", "tile", "dynamic_slice")
)


@dataclasses.dataclass
class Roles:
    """Producing and consuming parameter axes in the order that the program meets them.

    ``heads`` are the atoms that batch a product of two data values, as attention heads do.
    ``layers`` are the parameters that map some of their axes to others, as kernels and tables do,
    each with the axes that it shares with its output.
    """

    producers: dict[Axis, None] = dataclasses.field(default_factory=dict)
    consumers: dict[Axis, None] = dataclasses.field(default_factory=dict)
    heads: set[Atom] = dataclasses.field(default_factory=set)
    layers: dict[tuple[int, tuple[int, ...]], None] = dataclasses.field(default_factory=dict)


def find_roles(
    body: Body, parameters: Sequence[tuple[int, Value]], buffers: Iterable[Value]
) -> Roles:
    """Walk the program; ``parameters`` are numbered values, ``buffers`` untrained variables."""
    roles = Roles()
    weights: dict[Value, Sources] = {
        value: tuple(frozenset({(number, axis)}) for axis in range(len(value.shape)))
        for number, value in parameters
    }
    for value in (*buffers, *body.consts):
        weights[value] = _neutral(value)
    _walk(body, weights, roles)
    for value in body.outs:
        _mark(roles.producers, weights.get(value, ()))
    return roles


def _neutral(value: Value) -> Sources:
    return (frozenset(),) * len(value.shape)


def _mark(kind: dict[Axis, None], sources: Iterable[frozenset[Axis]]) -> None:
    for axes in sources:
        for axis in sorted(axes):
            kind.setdefault(axis)


def _walk(body: Body, weights: dict[Value, Sources], roles: Roles) -> None:
    for value in body.consts:
        weights.setdefault(value, _neutral(value))
    for node in body.nodes:
        if node.bodies:
            _enter(node, weights, roles)
            continue
        sources = [_sources(value, weights) for value in node.ins]
        if None not in sources:
            _combine(node, [s for s in sources if s is not None], weights, roles)
        else:
            _meet(node, sources, roles)


def _sources(value: Value, weights: dict[Value, Sources]) -> Sources | None:
    if value.const is not None:
        return _neutral(value)
    return weights.get(value)


def _enter(node: Node, weights: dict[Value, Sources], roles: Roles) -> None:
    """Weights keep their sources inside a body; whatever a loop carries counts as data."""
    if node.name == "scan":
        skip = sum(scan_counts(node))
        for outer, inner in zip(node.ins[skip:], node.bodies[0].ins[skip:], strict=True):
            known = _sources(outer, weights)
            if known is not None:
                weights[inner] = known[1:]
    for body in node.bodies:
        _walk(body, weights, roles)
    is_loop = node.name in ("scan", "while")
    results = zip(node.outs, *(body.outs for body in node.bodies), strict=False)
    for out, *inner_outs in results:
        known_outs = [_sources(value, weights) for value in inner_outs]
        if is_loop or None in known_outs:
            for sources in known_outs:
                _mark(roles.producers, sources or ())
        else:
            weights[out] = tuple(
                frozenset().union(*axes)
                for axes in zip(*(s for s in known_outs if s is not None), strict=True)
            )


def _combine(
    node: Node, sources: list[Sources], weights: dict[Value, Sources], roles: Roles
) -> None:
    """A value computed from weights alone."""
    contracted = contracted_axes(node)
    if contracted and len(node.ins) > 1:
        # Of two factors the left one produces, unless it holds nothing that is trained.
        left = [sources[0][i] for i in contracted[0]]
        _mark(roles.producers, left)
        _mark(roles.consumers, (sources[1][j] for j in contracted[1]))
    for out in node.outs:
        weights[out] = tuple(_axis_sources(node, sources, out, k) for k in range(len(out.shape)))


def _axis_sources(node: Node, sources: list[Sources], out: Value, axis: int) -> frozenset[Axis]:
    rank = len(out.shape)
    if node.name in SAME_RANK:
        found = [s[axis] for s in sources if len(s) == rank]
    elif node.name == "transpose":
        found = [sources[0][node.params["permutation"][axis]]]
    elif node.name == "reshape":
        ins = _reshaped_from(node.ins[0].shape, out.shape, axis)
        found = [sources[0][i] for i in ins]
    elif node.name == "broadcast_in_dim":
        to = node.params["broadcast_dimensions"]
        found = [sources[0][to.index(axis)]] if axis in to else []
    elif contracted_axes(node) is not None:
        # Not by atoms alone: a recurrent kernel has the same on the axis that is summed away.
        sides = product_axes(node)[axis]
        found = [sources[k][i] for atom in atoms(out.dims[axis]) for k, i in sides(atom)]
    else:
        mine = set(atoms(out.dims[axis]))
        found = [
            s[i]
            for value, s in zip(node.ins, sources, strict=True)
            for i, dim in enumerate(value.dims)
            if mine & set(atoms(dim))
        ]
    return frozenset().union(*found)


def _reshaped_from(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The axes that a reshape makes an axis of; none where there are no entries."""
    if 0 in after:
        return ()
    return next(tuple(ins) for ins, outs in shapes.reshape_blocks(before, after) if axis in outs)


def _meet(node: Node, sources: list[Sources | None], roles: Roles) -> None:
    """Weights meet data."""
    contracted = contracted_axes(node)
    for number, known in enumerate(sources):
        if known is None:
            continue
        gone = contracted[number] if contracted and number < 2 else ()
        _mark(roles.consumers, (known[i] for i in gone))
        _mark(roles.producers, (axes for i, axes in enumerate(known) if i not in gone))
        _note_layers(node, node.ins[number], known, gone, roles)
    if node.name == "dot_general" and sources[:2] == [None, None]:
        for axis in node.params["dimension_numbers"][1][0]:
            roles.heads.update(atoms(node.ins[0].dims[axis]))


def _note_layers(
    node: Node, weight: Value, known: Sources, gone: Iterable[int], roles: Roles
) -> None:
    """Parameters with an axis that the output does not have, and with one that it has."""
    made = {atom for out in node.outs for dim in out.dims for atom in atoms(dim)}
    outputs: set[Axis] = set()
    used_up: set[Axis] = set()
    single: set[Axis] = set()  # of size one, which no atom tells from others
    for i, (dim, axes) in enumerate(zip(weight.dims, known, strict=True)):
        if i in gone:
            used_up |= axes
        elif made & set(atoms(dim)):
            outputs |= axes
        else:
            (used_up if dim.size > 1 else single).update(axes)
    for number in sorted({number for number, _ in used_up}):
        found = _axes_of(number, outputs) or _axes_of(number, single)
        if found:
            roles.layers.setdefault((number, found))


def _axes_of(number: int, axes: Iterable[Axis]) -> tuple[int, ...]:
    return tuple(sorted(axis for parameter, axis in axes if parameter == number))
