"""`prove`: the whole interpretation of a program."""

from __future__ import annotations

from collections.abc import Iterable

from oto_jax.zigs.dims import Atom
from oto_jax.zigs.program import Body, Value
from oto_jax.zigs.proof import alike, control, moves, sums
from oto_jax.zigs.proof.prover import Proof, Prover

RULES = {**alike.RULES, **moves.RULES, **sums.RULES, **control.RULES}


def prove(body: Body, zeroed: Iterable[tuple[Value, int]], candidates: Iterable[Atom]) -> Proof:
    """Run the proof with the given axes of parameters zero at the unit in question."""
    prover = Prover(candidates, RULES, control.call)
    for value, axis in zeroed:
        for atom in prover.atoms(value.dims[axis]):
            prover.set(value, axis, atom, 0.0)
    prover.run(body)
    return prover.proof
