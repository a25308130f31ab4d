"""Control flow: a loop's states are iterated downwards until they hold on every iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from oto_jax.zigs import states as st
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.proof.prover import Known, Prover, Rule
from oto_jax.zigs.rules.control import scan_counts
from oto_jax.zigs.states import UNKNOWN


def _copy(p: Prover, source: Value, target: Value) -> None:
    """Let one value have what is known of another with the same dimensions."""
    if source in p.known:
        p.known[target] = dict(p.known[source])
    state = p.uniform_state(source)
    if isinstance(state, float):
        p.uniform[target] = state
    if source in p.sums:
        p.sums[target] = p.sums[source]


def call(p: Prover, node: Node) -> None:
    """A function that is called: its body, where it stands."""
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


RULES: dict[str, Rule] = {"scan": _scan, "while": _while, "cond": _cond}
