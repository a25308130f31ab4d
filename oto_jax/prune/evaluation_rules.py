"""How a program is evaluated where binding the primitive again will not do."""

from __future__ import annotations

from typing import Any

import jax

from oto_jax.prune.custom_derivatives import custom_jvp, custom_vjp
from oto_jax.prune.evaluator import Evaluator, Rule
from oto_jax.zigs.program import Node
from oto_jax.zigs.rules.control import scan_counts
from oto_jax.zigs.rules.randomness import DRAWS


def _at_full_width(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    """What tells positions apart by their index is made whole, then cut."""
    out = node.eqn.primitive.bind(*ins, **node.params)
    outs = list(out) if node.eqn.primitive.multiple_results else [out]
    return [run.cut(array, value) for array, value in zip(outs, node.outs, strict=True)]


def _call(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    return run.run(node.bodies[0], ins)


def _remat(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    fn = jax.checkpoint(
        lambda *arrays: run.run(node.bodies[0], arrays),
        prevent_cse=node.params["prevent_cse"],
        policy=node.params["policy"],
    )
    return list(fn(*ins))


def _scan(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    params = node.params
    consts, carries = scan_counts(node)

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        outs = run.run(node.bodies[0], [*ins[:consts], *carry, *xs])
        return outs[:carries], outs[carries:]

    carry, ys = jax.lax.scan(
        step,
        list(ins[consts : consts + carries]),
        list(ins[consts + carries :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys]


def _while(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    cond, body = node.bodies
    first = node.params["cond_nconsts"]
    second = first + node.params["body_nconsts"]
    return list(
        jax.lax.while_loop(
            lambda carry: run.run(cond, [*ins[:first], *carry])[0],
            lambda carry: run.run(body, [*ins[first:second], *carry]),
            list(ins[second:]),
        )
    )


def _cond(run: Evaluator, node: Node, ins: list[Any]) -> list[Any]:
    branches = [lambda *ops, body=body: run.run(body, ops) for body in node.bodies]
    return list(jax.lax.switch(ins[0], branches, *ins[1:]))


RULES: dict[str, Rule] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call", "custom_lin", "composite"), _call),
    **dict.fromkeys(("remat", "remat2", "checkpoint"), _remat),
    "custom_jvp_call": custom_jvp,
    **dict.fromkeys(("custom_vjp_call", "custom_vjp_call_jaxpr"), custom_vjp),
    **dict.fromkeys((*DRAWS, "iota"), _at_full_width),
}
