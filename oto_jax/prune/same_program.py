"""A proof, without running anything, that a rebuilt module is the full one cut to size.

Both are traced and their programs compared equation by equation. They agree when each equation of
the slim program is what `oto_jax.narrow` would evaluate: the same primitive on the corresponding
values, the same numbers written into the code, and the static shapes of the surviving widths. A
mean that now divides by another width, or a softmax with another scale, shows as another number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from oto_jax.prune.narrow_params import narrow_params
from oto_jax.prune.plan import Plan
from oto_jax.prune.survivors import Kept, Survivors
from oto_jax.zigs import dims as d
from oto_jax.zigs.partition import key_path
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.rules.control import CALL_PARAMS
from oto_jax.zigs.rules.randomness import DRAWS
from oto_jax.zigs.source import source_line
from oto_jax.zigs.walk import open_jaxpr

OPAQUE = (
    *CALL_PARAMS,
    "cond_jaxpr",
    "body_jaxpr",
    "branches",
    "jvp_jaxpr_fun",
    "jvp",
    "fwd",
    "bwd",
)
"""Parameters that hold code. Jaxprs are compared apart; derivative rules follow their function."""


def first_difference(
    full: Callable[..., Any],
    full_variables: Any,
    slim: Callable[..., Any],
    slim_variables: Any,
    plan: Plan,
    arrays: Sequence[Any],
) -> str | None:
    """Where two programs part, or None: then the slim one is exactly the full one cut to size.

    Args:
      full: ``full(full_variables, *arrays)``.
      full_variables: the full variables, values or shapes.
      slim: the rebuilt module's function of its own variables.
      slim_variables: the variables cut along ``plan``.
      plan: what is kept.
      arrays: the inputs, values or shapes.

    Returns:
      None, or one sentence that names the first difference and the model's line.
    """
    body, survivors = _cut_program(full, full_variables, plan, arrays)
    closed = jax.make_jaxpr(slim)(slim_variables, *arrays)
    return next(_differences(body, closed.jaxpr, closed.consts, survivors), None)


def _cut_program(
    full: Callable[..., Any], variables: Any, plan: Plan, arrays: Sequence[Any]
) -> tuple[Body, Survivors]:
    closed = jax.make_jaxpr(full)(variables, *arrays)
    values = [
        Value(v.aval.shape, v.aval.dtype, d.new_dims(v.aval.shape)) for v in closed.jaxpr.invars
    ]
    body = open_jaxpr(closed.jaxpr, closed.consts, values)
    survivors = Survivors()
    paths = [key_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    for path, value in zip(paths, values, strict=False):
        for axis, cut in plan.by_path[path].cuts:
            survivors.assign(value.dims[axis], Kept(cut.positions), "/".join(path))
    return body, survivors


def _differences(
    body: Body, jaxpr: Any, consts: Sequence[Any], survivors: Survivors
) -> Iterator[str]:
    counterpart: dict[Any, Value] = dict(zip(jaxpr.invars, body.ins, strict=True))
    if len(consts) != len(body.consts):
        yield f"it closes over {len(consts)} arrays instead of {len(body.consts)}"
        return
    for var, const, value in zip(jaxpr.constvars, consts, body.consts, strict=True):
        counterpart[var] = value
        if not _same_array(_cut(value, survivors), const):
            yield "an array in the model's code is another one at the new width"
    if len(jaxpr.eqns) != len(body.nodes):
        yield f"it takes {len(jaxpr.eqns)} steps instead of {len(body.nodes)}"
        return
    for node, eqn in zip(body.nodes, jaxpr.eqns, strict=True):
        for text in _node_differences(node, eqn, counterpart, survivors):
            line = source_line(eqn)
            yield f"{text} ({line})" if line else text
        counterpart.update(zip(eqn.outvars, node.outs, strict=True))
    for atom, value in zip(jaxpr.outvars, body.outs, strict=True):
        if not _corresponds(atom, value, counterpart):
            yield "it returns something else"


def _node_differences(
    node: Node, eqn: Any, counterpart: Mapping[Any, Value], survivors: Survivors
) -> Iterator[str]:
    if eqn.primitive.name != node.name or len(eqn.invars) != len(node.ins):
        yield f"it computes {eqn.primitive.name} where the full model computes {node.name}"
        return
    for atom, value in zip(eqn.invars, node.ins, strict=True):
        if not _corresponds(atom, value, counterpart):
            yield from _operand_difference(node, atom, value)
    wanted = narrow_params(node, survivors)
    for name, given in eqn.params.items():
        if name not in OPAQUE and not _same_param(wanted.get(name), given):
            yield f"{node.name} has {name}={given} where {wanted.get(name)} was expected"
    if node.name not in DRAWS:
        yield from _numbering_differences(node, survivors)
    for var, out in zip(eqn.outvars, node.outs, strict=True):
        if tuple(var.aval.shape) != survivors.shape(out) or var.aval.dtype != out.dtype:
            yield f"{node.name} gives {var.aval.str_short()}, not {survivors.shape(out)}"
    for body, (jaxpr, consts) in zip(node.bodies, _jaxprs(eqn), strict=True):
        yield from _differences(body, jaxpr, consts, survivors)


def _operand_difference(node: Node, atom: Any, value: Value) -> Iterator[str]:
    if isinstance(atom, jex.Literal) and value.const is not None:
        yield f"{node.name} uses {atom.val} where the full model uses {value.const}"
    else:
        yield f"{node.name} is applied to something else"


def _numbering_differences(node: Node, survivors: Survivors) -> Iterator[str]:
    """A numbering of fewer positions is the old one cut only if the first ones were kept."""
    for dim in node.index_axes:
        kept = survivors.positions(dim)
        if kept is not None and not np.array_equal(kept, np.arange(len(kept))):
            yield f"{node.name} numbers the positions anew"


def _corresponds(atom: Any, value: Value, counterpart: Mapping[Any, Value]) -> bool:
    if isinstance(atom, jex.Literal):
        return value.const is not None and _same_array(value.const, atom.val)
    return counterpart.get(atom) is value


def _same_array(left: Any, right: Any) -> bool:
    if np.shape(left) != np.shape(right):
        return False
    return bool(np.array_equal(np.asarray(left), np.asarray(right), equal_nan=_is_inexact(left)))


def _is_inexact(array: Any) -> bool:
    return jnp.issubdtype(np.asarray(array).dtype, np.inexact)


def _cut(value: Value, survivors: Survivors) -> Any:
    array = np.asarray(value.const)
    for axis, dim in enumerate(value.dims):
        array = np.take(array, survivors.kept(dim), axis)
    return array


def _same_param(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return _same_array(left, right)
    if callable(left) and callable(right):
        return True
    # NaN is what `jnp.take` fills in where an index is too large.
    return bool(left == right) or (_is_nan(left) and _is_nan(right))


def _is_nan(param: Any) -> bool:
    return isinstance(param, float | np.floating) and math.isnan(param)


def _jaxprs(eqn: Any) -> list[tuple[Any, Sequence[Any]]]:
    """The jaxprs of an equation in the order in which they are opened."""
    params = eqn.params
    if "branches" in params:
        found = list(params["branches"])
    elif "cond_jaxpr" in params:
        found = [params["cond_jaxpr"], params["body_jaxpr"]]
    else:
        found = [params[name] for name in CALL_PARAMS if name in params][:1]
    return [(getattr(j, "jaxpr", j), getattr(j, "consts", ())) for j in found]
