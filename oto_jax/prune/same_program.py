"""A proof, without running anything, that a rebuilt module is the full one cut to size.

Both are traced and their programs compared equation by equation. They agree when each equation of
the slim program is what `oto_jax.narrow` would evaluate: the same primitive on the corresponding
values, the same numbers written into the code, and the static shapes of the surviving widths. A
mean that now divides by another width, or a softmax with another scale, shows as another number.
Steps that do nothing at the slim widths, such as spreading one unit over one unit, may be missing
on either side.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from oto_jax.prune.draws import redrawn_constant
from oto_jax.prune.narrow_params import narrow_params
from oto_jax.prune.plan import Plan
from oto_jax.prune.survivors import Kept, Survivors
from oto_jax.zigs import dims as d
from oto_jax.zigs.partition import Path, key_path
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


Kind = Literal["numbers", "steps", "indices"]


@dataclasses.dataclass(frozen=True)
class Parting:
    """Where two programs part.

    Attributes:
      text: one sentence that names the difference and the model's line.
      kind: the same steps with other ``"numbers"``, or with other integers (an index counted from
        the end, for one, is made of a size, and never used as such); or other ``"steps"``, whose
        results may be the same.
    """

    text: str
    kind: Kind = "numbers"


def _gravest(partings: Iterable[Parting]) -> Parting | None:
    """The first of those that say most against a program."""
    return min(partings, key=lambda one: get_args(Kind).index(one.kind), default=None)


def first_difference(
    full: Callable[..., Any],
    full_variables: Any,
    slim: Callable[..., Any],
    slim_variables: Any,
    plan: Plan,
    arrays: Sequence[Any],
) -> Parting | None:
    """Where two programs part, or None: then the slim one is exactly the full one cut to size.

    Args:
      full: ``full(full_variables, *arrays)``.
      full_variables: the full variables, values or shapes.
      slim: the rebuilt module's function of its own variables.
      slim_variables: the variables cut along ``plan``.
      plan: what is kept.
      arrays: the inputs, values or shapes.

    Returns:
      The gravest difference: in numbers before one in steps, and that before one in indices.
    """
    body, survivors = _cut_program(full, full_variables, plan, arrays)
    closed = jax.make_jaxpr(slim)(slim_variables, *arrays)
    return _gravest(_differences(body, closed.jaxpr, closed.consts, survivors))


def changed_draw(
    full: Callable[..., Any],
    variables: Any,
    plan: Plan,
    arrays: Sequence[Any],
    streams: frozenset[Path] = frozenset(),
) -> str | None:
    """A constant of the full program that the slim one would draw anew, or None.

    Args:
      full: ``full(variables, *arrays)``.
      variables: the full variables, values or shapes.
      plan: what is kept.
      arrays: the inputs, values or shapes; keys among them are the caller's.
      streams: the variables that hold the caller's keys, too.
    """
    body, survivors = _cut_program(full, variables, plan, arrays)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    kept = [
        value
        for (path, _), value in zip(leaves, body.ins, strict=False)
        if key_path(path) in streams
    ]
    return redrawn_constant(body, [*kept, *body.ins[len(leaves) :]], survivors)


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
) -> Iterator[Parting]:
    seen = _Seen(dict(zip(jaxpr.invars, body.ins, strict=True)), {})
    if len(consts) != len(body.consts):
        yield Parting(f"it closes over {len(consts)} arrays instead of {len(body.consts)}", "steps")
        return
    for var, const, value in zip(jaxpr.constvars, consts, body.consts, strict=True):
        seen.counterpart[var] = value
        if not _same_array(_cut(value, survivors), const):
            yield Parting("an array in the model's code is another one at the new width")
    nodes, eqns = deque(body.nodes), deque(jaxpr.eqns)
    while nodes or eqns:
        parting = _next_parting(nodes, eqns, seen, survivors)
        if parting is None or parting.kind == "indices":
            if parting is not None:
                yield parting
            node, eqn = nodes.popleft(), eqns.popleft()
            seen.counterpart.update(zip(eqn.outvars, node.outs, strict=True))
        elif eqns and _slim_does_nothing(eqns[0]):
            eqn = eqns.popleft()
            seen.counterpart[eqn.outvars[0]] = seen.counterpart[eqn.invars[0]]
        elif nodes and _full_does_nothing(nodes[0], survivors):
            node = nodes.popleft()
            seen.same[node.outs[0]] = seen.value(node.ins[0])
        else:
            yield parting
            return
    for atom, value in zip(jaxpr.outvars, body.outs, strict=True):
        if not seen.corresponds(atom, value):
            yield Parting("it returns something else", "steps")


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What the slim program's variables stand for, and which values of the full one are equal."""

    counterpart: dict[Any, Value]
    same: dict[Value, Value]

    def value(self, value: Value) -> Value:
        """The first of several equal values."""
        return self.same.get(value, value)

    def corresponds(self, atom: Any, value: Value) -> bool:
        """Whether an operand of the slim program is that of the full one."""
        if isinstance(atom, jex.Literal):
            return value.const is not None and _same_array(value.const, atom.val)
        return atom in self.counterpart and (
            self.value(self.counterpart[atom]) is self.value(value)
        )


def _next_parting(
    nodes: Sequence[Node], eqns: Sequence[Any], seen: _Seen, survivors: Survivors
) -> Parting | None:
    if not (nodes and eqns):
        more = "more" if eqns else "fewer"
        return Parting(f"it takes {more} steps than the full model", "steps")
    found = _gravest(_node_differences(nodes[0], eqns[0], seen, survivors))
    if found is None:
        return None
    line = source_line(eqns[0])
    return dataclasses.replace(found, text=f"{found.text} ({line})") if line else found


def _slim_does_nothing(eqn: Any) -> bool:
    """Whether an equation of the slim program gives what it is given."""
    shapes = [tuple(var.aval.shape) for var in (*eqn.invars, *eqn.outvars)]
    return _keeps_order(eqn) and shapes[0] == shapes[1]


def _full_does_nothing(node: Node, survivors: Survivors) -> bool:
    """Whether an equation of the full program would, at the surviving widths."""
    shapes = [survivors.shape(value) for value in (*node.ins, *node.outs)]
    return _keeps_order(node.eqn) and shapes[0] == shapes[1]


def _keeps_order(eqn: Any) -> bool:
    """Whether an equation at most adds axes or copies, and so does nothing if no shape changes."""
    if len(eqn.invars) != 1 or isinstance(eqn.invars[0], jex.Literal):
        return False
    axes = range(len(eqn.outvars[0].aval.shape))
    match eqn.primitive.name:
        case "reshape":
            return True
        case "convert_element_type":
            return bool(eqn.invars[0].aval.dtype == eqn.outvars[0].aval.dtype)
        case "broadcast_in_dim":
            return tuple(eqn.params["broadcast_dimensions"]) == tuple(axes)
        case "transpose":
            return tuple(eqn.params["permutation"]) == tuple(axes)
    return False


def _node_differences(node: Node, eqn: Any, seen: _Seen, survivors: Survivors) -> Iterator[Parting]:
    if eqn.primitive.name != node.name or len(eqn.invars) != len(node.ins):
        text = f"it computes {eqn.primitive.name} where the full model computes {node.name}"
        yield Parting(text, "steps")
        return
    for atom, value in zip(eqn.invars, node.ins, strict=True):
        if not seen.corresponds(atom, value):
            yield _operand_difference(node, atom, value)
    wanted = narrow_params(node, survivors)
    for name, given in eqn.params.items():
        if name not in OPAQUE and not _same_param(wanted.get(name), given):
            text = f"{node.name} has {name}={given} where {wanted.get(name)} was expected"
            yield Parting(text, "numbers" if isinstance(given, int | float) else "steps")
    if node.name not in DRAWS:
        yield from _numbering_differences(node, survivors)
    for var, out in zip(eqn.outvars, node.outs, strict=True):
        if tuple(var.aval.shape) != survivors.shape(out) or var.aval.dtype != out.dtype:
            text = f"{node.name} gives {var.aval.str_short()}, not {survivors.shape(out)}"
            yield Parting(text, "steps")
    for body, (jaxpr, consts) in zip(node.bodies, _jaxprs(eqn), strict=True):
        yield from _differences(body, jaxpr, consts, survivors)


def _operand_difference(node: Node, atom: Any, value: Value) -> Parting:
    if isinstance(atom, jex.Literal) and value.const is not None:
        text = f"{node.name} uses {atom.val} where the full model uses {value.const}"
        return Parting(text, "indices" if jnp.issubdtype(value.dtype, np.integer) else "numbers")
    return Parting(f"{node.name} is applied to something else", "steps")


def _numbering_differences(node: Node, survivors: Survivors) -> Iterator[Parting]:
    """A numbering of fewer positions is the old one cut only if the first ones were kept."""
    for dim in node.index_axes:
        kept = survivors.positions(dim)
        if kept is not None and not np.array_equal(kept, np.arange(len(kept))):
            yield Parting(f"{node.name} numbers the positions anew")


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
