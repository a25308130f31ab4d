"""Primitives that hold jaxprs: calls, custom derivatives, remat, scan, while, cond."""

from __future__ import annotations

from oto_jax.zigs.dims import Dims
from oto_jax.zigs.program import Node, Value

CALL_PARAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def call(node: Node) -> list[Dims]:
    """A jaxpr evaluated once on the operands."""
    jaxpr = next(node.params[name] for name in CALL_PARAMS if name in node.params)
    return [value.dims for value in node.open(jaxpr, node.ins).outs]


def scan_counts(node: Node) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    params = node.params
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    # Since JAX 0.11 the operands' tree (constants, carry, scanned) says so.
    consts, carry, _ = params["ft_in"].update(range(len(node.ins))).unpack()
    return len(list(consts)), len(list(carry))


def scan(node: Node) -> list[Dims]:
    """Carried dimensions return as they came; the scanned axis stays whole."""
    consts, carries = scan_counts(node)
    inner = node.ins[:consts] + [_renewed(value) for value in node.ins[consts : consts + carries]]
    for value in node.ins[consts + carries :]:
        node.freeze(value.dims[0], "the axis that scan runs along")
        inner.append(Value(value.shape[1:], value.dtype, value.dims[1:]))
    body = node.open(node.params["jaxpr"], inner)
    for before, after in zip(node.ins[consts : consts + carries], body.outs, strict=False):
        _unify_values(node, before, after)
    steps = node.frozen(node.params["length"], "the axis that scan runs along")
    out = [value.dims for value in node.ins[consts : consts + carries]]
    return out + [(steps, *value.dims) for value in body.outs[carries:]]


def while_(node: Node) -> list[Dims]:
    """Carried dimensions return as they came."""
    cond_consts, body_consts = node.params["cond_nconsts"], node.params["body_nconsts"]
    carries = node.ins[cond_consts + body_consts :]
    inner = [_renewed(value) for value in carries]
    node.open(node.params["cond_jaxpr"], [*node.ins[:cond_consts], *inner])
    consts = node.ins[cond_consts : cond_consts + body_consts]
    body = node.open(node.params["body_jaxpr"], [*consts, *inner])
    for before, after in zip(carries, body.outs, strict=True):
        _unify_values(node, before, after)
    return [value.dims for value in carries]


def cond(node: Node) -> list[Dims]:
    """All branches return the same dimensions."""
    for branch in node.params["branches"]:
        node.open(branch, node.ins[1:])
    first, *others = node.bodies
    for body in others:
        for left, right in zip(first.outs, body.outs, strict=True):
            _unify_values(node, left, right)
    return [value.dims for value in first.outs]


def _renewed(value: Value) -> Value:
    """What a loop carries: the dimensions of its initial value, but not its constant."""
    return Value(value.shape, value.dtype, value.dims)


def _unify_values(node: Node, left: Value, right: Value) -> None:
    for a, b in zip(left.dims, right.dims, strict=True):
        node.unify(a, b)


CALLS = (
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "composite",
)  # fmt: skip

RULES = {**dict.fromkeys(CALLS, call), "scan": scan, "while": while_, "cond": cond}
