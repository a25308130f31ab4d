"""Primitives that treat every position alike: element by element."""

from __future__ import annotations

from oto_jax.zigs import states as st
from oto_jax.zigs.program import Node
from oto_jax.zigs.proof.prover import Prover, Rule
from oto_jax.zigs.rules import elementwise
from oto_jax.zigs.states import UNKNOWN


def _elementwise(p: Prover, node: Node) -> None:
    out = node.outs[0]
    is_bool = getattr(node.ins[0].dtype, "kind", "") == "b"
    uniform = [p.uniform_state(value) for value in node.ins]
    if UNKNOWN not in uniform and node.ins:
        state = st.elementwise(node.name, node.params, uniform, is_bool, out.dtype)
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
            state = st.elementwise(node.name, node.params, states, is_bool, out.dtype)
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


RULES: dict[str, Rule] = dict.fromkeys(elementwise.NAMES, _elementwise)
