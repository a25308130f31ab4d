"""The state of the proof: what is known of every value, and what failed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from oto_jax.zigs import dims as d
from oto_jax.zigs import states as st
from oto_jax.zigs.dims import Atom, Dim
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.states import UNKNOWN, State

Known = dict[tuple[int, Atom], State]
"""States by axis and atom; what is missing is `UNKNOWN`."""
Rule = Callable[["Prover", Node], None]
"""What is known of the results of a primitive, from what is known of its operands."""


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

    def __init__(self, candidates: Iterable[Atom], rules: Mapping[str, Rule], call: Rule) -> None:
        self.rules = rules
        self.call = call
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
            self.rules.get(node.name, self.call)(self, node)
            return
        if node.index_axes:
            self._note_indexed(node)
        for value in node.ins:
            if value.const is not None and value.shape:
                self._note_constant(node, value)
        rule = self.rules.get(node.name)
        if rule is not None:  # Else nothing is known of the results: random numbers, iota, unknown.
            rule(self, node)

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


def _uniform_constant(value: Value) -> State:
    if getattr(value.dtype, "kind", "O") not in "biuf" and str(value.dtype) != "bfloat16":
        return UNKNOWN
    array = np.asarray(value.const)
    if array.size == 0 or array.size > 1_000_000:
        return UNKNOWN
    first = array.flat[0]
    return float(first) if bool(np.all(array == first)) else UNKNOWN
