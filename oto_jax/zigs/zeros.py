"""The proof of zero-invariance, by abstract interpretation.

For every candidate atom at once: what is the slice of a value at unit `i`, given that the slices of
the parameters that produce unit `i` are zero, and whatever everything else may be? Wherever a
program sums over the axis (a product, a convolution, `reduce_sum`), the slice has to be exactly
zero there; then the unit adds nothing, and cutting it out leaves every result as it was. An atom
for which this fails is blocked, with the place and what was found there instead of zero.

Soundness. A state is attached to (value, axis, atom). Rules only ever claim a number where the
primitive maps numbers to that number in floating point, and a product with zero only where the
other factor is finite (see `states`). Loops are iterated from their initial state downwards until
nothing changes, so the result holds on every iteration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from oto_jax.zigs import dims as d
from oto_jax.zigs import states as st
from oto_jax.zigs.dims import Atom, Dim
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.roles import contracted_axes
from oto_jax.zigs.rules import contractions, elementwise, indexing, shapes
from oto_jax.zigs.rules.control import scan_counts
from oto_jax.zigs.states import INFINITE, UNKNOWN, State

Known = dict[tuple[int, Atom], State]
"""States by axis and atom; what is missing is `UNKNOWN`."""


@dataclasses.dataclass
class Proof:
    """What the proof found out.

    ``blocked``: why an atom is not zero-invariant. ``statistics``: where a mean is taken over an
    atom, which a module rebuilt at another width would take over fewer positions. ``indexed``:
    where an atom meets positions told apart by their index, which such a module would number anew.
    """

    blocked: dict[Atom, d.Reason] = dataclasses.field(default_factory=dict)
    statistics: dict[Atom, d.Reason] = dataclasses.field(default_factory=dict)
    indexed: dict[Atom, d.Reason] = dataclasses.field(default_factory=dict)


class Prover:
    """Runs the abstract interpretation over a program."""

    def __init__(self, candidates: Iterable[Atom]) -> None:
        self.candidates = frozenset(candidates)
        self.known: dict[Value, Known] = {}
        self.uniform: dict[Value, State] = {}
        self.sums: dict[Value, frozenset[Atom]] = {}
        self.broken: dict[Atom, tuple[str, State]] = {}
        self.proof = Proof()
        self._atoms: dict[Dim, tuple[Atom, ...]] = {}

    def atoms(self, dim: Dim) -> tuple[Atom, ...]:
        """The candidate atoms of a dimension."""
        found = self._atoms.get(dim)
        if found is None:
            found = tuple(a for a in dict.fromkeys(d.atoms(dim)) if a in self.candidates)
            self._atoms[dim] = found
        return found

    def state(self, value: Value, axis: int, atom: Atom) -> State:
        known = self.known.get(value)
        if known is not None and (axis, atom) in known:
            return known[axis, atom]
        return self.uniform_state(value)

    def uniform_state(self, value: Value) -> State:
        """The number that every entry of a value equals, if there is one."""
        if value in self.uniform:
            return self.uniform[value]
        state: State = UNKNOWN
        if value.const is not None:
            state = _uniform_constant(value)
            self.uniform[value] = state
        return state

    def run(self, body: Body) -> None:
        for node in body.nodes:
            self.visit(node)

    def visit(self, node: Node) -> None:
        if node.bodies:
            _CONTROL.get(node.name, _call)(self, node)
            return
        if node.index_axes:
            self._note_indexed(node)
        for value in node.ins:
            if value.const is not None and value.shape:
                self._note_constant(node, value)
        _PLAIN.get(node.name, _opaque)(self, node)

    def _note_indexed(self, node: Node) -> None:
        for dim in node.index_axes:
            for atom in self.atoms(dim):
                text = "the units are numbered by their position"
                self.proof.indexed.setdefault(atom, node.because(text))

    def _note_constant(self, node: Node, value: Value) -> None:
        if isinstance(self.uniform_state(value), float):
            return
        for dim in value.dims:
            for atom in self.atoms(dim):
                text = "the units meet a constant array of the model's code"
                self.proof.indexed.setdefault(atom, node.because(text))

    def set(self, value: Value, axis: int, atom: Atom, state: State) -> None:
        if state is not UNKNOWN:
            self.known.setdefault(value, {})[axis, atom] = state

    def block(self, atom: Atom, node: Node, state: State, what: str) -> None:
        """Record why the atom fails: what made its zero something else, and where it counts."""
        maker = self.broken.get(atom)
        if maker is None:
            found = f"a zeroed unit is {st.describe(state)}"
        else:
            found = f"{maker[0]} makes a zeroed unit {st.describe(maker[1])}"
        self.proof.blocked.setdefault(atom, node.because(f"{found} where {node.name} {what}"))

    def require_zero(self, node: Node, value: Value, axis: int) -> None:
        for atom in self.atoms(value.dims[axis]):
            state = self.state(value, axis, atom)
            if state != 0.0:
                self.block(atom, node, state, "sums over the axis")


def prove(body: Body, zeroed: Iterable[tuple[Value, int]], candidates: Iterable[Atom]) -> Proof:
    """Run the proof with the given axes of parameters zero at the unit in question."""
    prover = Prover(candidates)
    for value, axis in zeroed:
        for atom in prover.atoms(value.dims[axis]):
            prover.set(value, axis, atom, 0.0)
    prover.run(body)
    return prover.proof


def _uniform_constant(value: Value) -> State:
    if getattr(value.dtype, "kind", "O") not in "biuf" and str(value.dtype) != "bfloat16":
        return UNKNOWN
    array = np.asarray(value.const)
    if array.size == 0 or array.size > 1_000_000:
        return UNKNOWN
    first = array.flat[0]
    return float(first) if bool(np.all(array == first)) else UNKNOWN


# --- primitives that treat every position alike ------------------------------------------------


def _elementwise(p: Prover, node: Node) -> None:
    out = node.outs[0]
    is_bool = getattr(node.ins[0].dtype, "kind", "") == "b"
    uniform = [p.uniform_state(value) for value in node.ins]
    if UNKNOWN not in uniform and node.ins:
        state = st.elementwise(node.name, node.params, uniform, is_bool)
        if state is not UNKNOWN:
            p.uniform[out] = state
            return
    rank = len(out.shape)
    for axis, dim in enumerate(out.dims):
        for atom in p.atoms(dim):
            states = [
                p.state(value, axis, atom)
                if len(value.shape) == rank and value.shape[axis] != 1
                else uniform[k]
                for k, value in enumerate(node.ins)
            ]
            state = st.elementwise(node.name, node.params, states, is_bool)
            p.set(out, axis, atom, state)
            if state != 0.0 and 0.0 in states:
                p.broken.setdefault(atom, (node.name, state))
    _follow_mean(p, node)


def _follow_mean(p: Prover, node: Node) -> None:
    """A sum that is divided by a constant is a mean."""
    sums = p.sums.get(node.ins[0]) if node.ins else None
    if node.name in ("mul", "div") and len(node.ins) == 2:
        for one, other in (node.ins, node.ins[::-1]):
            if one in p.sums and not isinstance(p.uniform_state(other), st.Vague):
                for atom in p.sums[one]:
                    text = "a mean is taken over the axis, which depends on its full width"
                    p.proof.statistics.setdefault(atom, node.because(text))
    elif sums and node.name in ("convert_element_type", "copy", "stop_gradient"):
        p.sums[node.outs[0]] = sums


# --- primitives that move positions ------------------------------------------------------------

AxisMap = Callable[[Node], list[tuple[int, int, int, int]]]
"""(operand, its axis, result, its axis) for every axis that passes through."""


def _moved(axis_map: AxisMap, combine: bool = False) -> Callable[[Prover, Node], None]:
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
    return [(k, axis, k, axis) for k in range(len(node.outs)) for axis in range(_rank(node, k))]


def _rank(node: Node, operand: int) -> int:
    return len(node.ins[operand].shape)


def _all_same_axes(node: Node) -> list[tuple[int, int, int, int]]:
    return [(k, axis, 0, axis) for k in range(len(node.ins)) for axis in range(_rank(node, k))]


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
    rank = _rank(node, 0)
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
    axes = range(_rank(node, 0))
    return [(k, i, 0, i + (i >= new)) for k in range(len(node.ins)) for i in axes]


def _unstack(node: Node) -> list[tuple[int, int, int, int]]:
    gone = node.params["axis"]
    kept = [i for i in range(_rank(node, 0)) if i != gone]
    return [(0, i, r, j) for r in range(len(node.outs)) for j, i in enumerate(kept)]


def _reduced(node: Node) -> list[tuple[int, int, int, int]]:
    """The axes that a reduction leaves."""
    kept = [i for i in range(_rank(node, 0)) if i not in node.params["axes"]]
    return [(0, i, r, j) for r in range(len(node.outs)) for j, i in enumerate(kept)]


def _gathered(node: Node) -> list[tuple[int, int, int, int]]:
    dn = node.params["dimension_numbers"]
    skipped = (*dn.collapsed_slice_dims, *dn.operand_batching_dims)
    kept = [i for i in range(_rank(node, 0)) if i not in skipped]
    return [(0, i, 0, j) for i, j in zip(kept, dn.offset_dims, strict=True)]


def _top_k(p: Prover, node: Node) -> None:
    """The largest of zeros is zero; their places are unknown."""
    _moved(lambda node: [(0, axis, 0, axis) for axis in range(_rank(node, 0))])(p, node)
    p.uniform.pop(node.outs[1], None)


def _pad(p: Prover, node: Node) -> None:
    """A zeroed slice stays zero only if what is padded along other axes is zero too."""
    value, out = node.ins[0], node.outs[0]
    fill = p.uniform_state(node.ins[1])
    padded = [k for k, (low, high, _) in enumerate(node.params["padding_config"]) if low or high]
    for axis, dim in enumerate(out.dims):
        mine = set(p.atoms(value.dims[axis]))
        elsewhere = any(k != axis for k in padded)
        for atom in p.atoms(dim):
            state = p.state(value, axis, atom) if atom in mine else fill
            p.set(out, axis, atom, st.join(state, fill) if elsewhere else state)
    if p.uniform_state(value) == fill and isinstance(fill, float):
        p.uniform[out] = fill


def _updated(p: Prover, node: Node) -> None:
    """dynamic_update_slice and scatter: what was there joined with what is written."""
    operand, out = node.ins[0], node.outs[0]
    update = node.ins[1] if node.name == "dynamic_update_slice" else node.ins[2]
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


# --- primitives that sum positions away --------------------------------------------------------


def _reduce_sum(p: Prover, node: Node) -> None:
    value, out = node.ins[0], node.outs[0]
    summed: list[Atom] = []
    for axis in node.params["axes"]:
        p.require_zero(node, value, axis)
        summed += p.atoms(value.dims[axis])
    for _, axis, _, to in _reduced(node):
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
        _moved(_reduced)(p, node)


def _cumulative(p: Prover, node: Node) -> None:
    axis = node.params["axis"]
    value, out = node.ins[0], node.outs[0]
    if node.name == "cumsum":
        p.require_zero(node, value, axis)
    else:
        for atom in p.atoms(value.dims[axis]):
            p.block(atom, node, p.state(value, axis, atom), "runs along the axis")
    for k, dim in enumerate(out.dims):
        if k != axis:
            for atom in p.atoms(dim):
                state = p.state(value, k, atom)
                p.set(out, k, atom, state if state in (0.0, INFINITE) else UNKNOWN)


def _window(p: Prover, node: Node) -> None:
    value, out = node.ins[0], node.outs[0]
    for axis, dim in enumerate(out.dims):
        for atom in p.atoms(dim):
            state = p.state(value, axis, atom)
            p.set(out, axis, atom, state if state in (0.0, INFINITE) else UNKNOWN)


def _product(p: Prover, node: Node) -> None:
    """dot_general and convolutions: a sum of products over the contracted axes."""
    gone = contracted_axes(node)
    assert gone is not None
    lhs, rhs = node.ins[:2]
    for i, j in zip(*gone, strict=True):
        # The right operand's axis, since a grouped convolution does not sum over its groups.
        for atom in p.atoms(rhs.dims[j]):
            pair = (p.state(lhs, i, atom), p.state(rhs, j, atom))
            if st.elementwise("mul", {}, pair, False) != 0.0:
                worst = next((s for s in pair if s != 0.0), UNKNOWN)
                p.block(atom, node, worst, "sums over the axis")
    out = node.outs[0]
    for to, sides in enumerate(_product_axes(node)):
        for atom in p.atoms(out.dims[to]):
            states = [p.state(node.ins[k], axis, atom) for k, axis in sides(atom)]
            if 0.0 in states and INFINITE not in states:
                p.set(out, to, atom, 0.0)
            elif INFINITE in states:
                p.set(out, to, atom, INFINITE)


Sides = Callable[[Atom], list[tuple[int, int]]]
"""The (operand, axis) pairs whose slice at a unit makes the result's slice at that unit."""


def _product_axes(node: Node) -> list[Sides]:
    """What each axis of the result follows."""
    if node.name == "conv_general_dilated":
        return _convolution_axes(node)
    (lc, rc), (lb, rb) = node.params["dimension_numbers"]
    pairs = [[(0, i), (1, j)] for i, j in zip(lb, rb, strict=True)]
    pairs += [[(0, i)] for i in range(_rank(node, 0)) if i not in (*lc, *lb)]
    pairs += [[(1, j)] for j in range(_rank(node, 1)) if j not in (*rc, *rb)]
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


# --- control flow ------------------------------------------------------------------------------


def _copy(p: Prover, source: Value, target: Value) -> None:
    """Let one value have what is known of another with the same dimensions."""
    if source in p.known:
        p.known[target] = dict(p.known[source])
    state = p.uniform_state(source)
    if isinstance(state, float):
        p.uniform[target] = state
    if source in p.sums:
        p.sums[target] = p.sums[source]


def _call(p: Prover, node: Node) -> None:
    p.run(node.bodies[0])
    for inner, out in zip(node.bodies[0].outs, node.outs, strict=True):
        _copy(p, inner, out)


def _states(p: Prover, value: Value) -> Known:
    return {
        (axis, atom): p.state(value, axis, atom)
        for axis, dim in enumerate(value.dims)
        for atom in p.atoms(dim)
    }


def _assign(p: Prover, value: Value, known: Known) -> None:
    p.known[value] = {key: state for key, state in known.items() if state is not UNKNOWN}


def _joined(left: Known, right: Known) -> Known:
    return {key: st.join(state, right.get(key, UNKNOWN)) for key, state in left.items()}


def _cond(p: Prover, node: Node) -> None:
    for body in node.bodies:
        p.run(body)
    for outs in zip(node.outs, *(body.outs for body in node.bodies), strict=True):
        out, first, *others = outs
        known = _states(p, first)
        for other in others:
            known = _joined(known, _states(p, other))
        _assign(p, out, known)


def _iterate(
    p: Prover, bodies: Sequence[Body], carried: Sequence[Value], returned: Sequence[Value],
    initial: Sequence[Value],
) -> list[Known]:  # fmt: skip
    """The states that hold at the start of every iteration of a loop."""
    current = [_states(p, value) for value in initial]
    while True:
        for value, known in zip(carried, current, strict=True):
            _assign(p, value, known)
        for body in bodies:
            _forget(p, body)
            p.run(body)
        after = [
            _joined(known, _states(p, value))
            for known, value in zip(current, returned, strict=True)
        ]
        if after == current:
            return current
        current = after


def _forget(p: Prover, body: Body) -> None:
    """Drop what an earlier iteration claimed of a body's values."""
    for node in _all_nodes(body):
        for value in node.outs:
            p.known.pop(value, None)
            p.uniform.pop(value, None)


def _all_nodes(body: Body) -> Iterator[Node]:
    for node in body.nodes:
        yield node
        for inner in node.bodies:
            yield from _all_nodes(inner)


def _scan(p: Prover, node: Node) -> None:
    (body,) = node.bodies
    consts, carries = scan_counts(node)
    first, last = consts, consts + carries
    for outer, inner in zip(node.ins[last:], body.ins[last:], strict=True):
        known = {(axis - 1, a): s for (axis, a), s in _states(p, outer).items() if axis}
        _assign(p, inner, known)
    held = _iterate(p, [body], body.ins[first:last], body.outs[:carries], node.ins[first:last])
    for out, known in zip(node.outs, held, strict=False):
        _assign(p, out, known)
    for inner, out in zip(body.outs[carries:], node.outs[carries:], strict=True):
        _assign(p, out, {(axis + 1, a): s for (axis, a), s in _states(p, inner).items()})


def _while(p: Prover, node: Node) -> None:
    cond, body = node.bodies
    skip = node.params["cond_nconsts"] + node.params["body_nconsts"]
    carried = body.ins[node.params["body_nconsts"] :]
    held = _iterate(p, [cond, body], carried, body.outs, node.ins[skip:])
    for out, known in zip(node.outs, held, strict=True):
        _assign(p, out, known)


def _opaque(_p: Prover, _node: Node) -> None:
    """Nothing is known of the results (random numbers, iota, unknown primitives)."""


_CONTROL: dict[str, Callable[[Prover, Node], None]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
_PLAIN: dict[str, Callable[[Prover, Node], None]] = {
    **dict.fromkeys(elementwise.NAMES, _elementwise),
    **dict.fromkeys(("slice", "split", "rev", "dynamic_slice", "tile"), _moved(_same_axes)),
    "concatenate": _moved(_all_same_axes, combine=True),
    "stack": _moved(_stack, combine=True),
    "unstack": _moved(_unstack),
    "optimization_barrier": _moved(_own_axes, combine=True),
    "transpose": _moved(_transpose),
    "reshape": _moved(_reshape),
    "broadcast_in_dim": _moved(_broadcast_in_dim),
    "squeeze": _moved(_squeeze),
    "expand_dims": _moved(_expand_dims),
    "gather": _moved(_gathered),
    "sort": _moved(_own_axes, combine=True),
    "top_k": _top_k,
    "pad": _pad,
    **dict.fromkeys(("dynamic_update_slice", *indexing.SCATTERS), _updated),
    "reduce_sum": _reduce_sum,
    **dict.fromkeys(
        (*(name for name in contractions.REDUCTIONS if name != "reduce_sum"), "argmax", "argmin"),
        _reduce_other,
    ),
    **dict.fromkeys(contractions.WINDOWS, _window),
    **dict.fromkeys(contractions.CUMULATIVE, _cumulative),
    "dot_general": _product,
    "conv_general_dilated": _product,
}
