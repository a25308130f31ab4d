"""Random numbers that a program draws, and whether their keys are given to it.

From a key that the caller gives, a narrower module draws other numbers of the same distribution:
that is what a dropout mask is. From a key written into the code it draws a constant of the model,
and a narrower one is another constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.prune.survivors import Survivors
from oto_jax.zigs.program import Body, Node, Value
from oto_jax.zigs.rules.control import scan_counts
from oto_jax.zigs.rules.randomness import DRAWS, KEYS
from oto_jax.zigs.source import source_line

RAW_KEY_SIZES = (2, 4)
"""Entries of a key as plain numbers: Threefry's and that of RBG."""
FROM_KEYS = tuple(name for name in KEYS if name != "random_seed")
"""What makes a key of the key that it is given first; a seed is a number like any other."""
MOVES = tuple(
    "slice dynamic_slice gather squeeze expand_dims reshape broadcast_in_dim transpose copy rev"
    " concatenate select_n".split()
)
"""What moves keys about."""


def redrawn_constant(body: Body, inputs: Sequence[Value], survivors: Survivors) -> str | None:
    """A draw from no given key whose numbers the cut changes, as one sentence; None without.

    Args:
      body: the full program.
      inputs: those of its inputs among which the caller's keys are; a key among the others, as one
        that a module keeps in its variables, is a constant of the model.
      survivors: what is cut of it.
    """
    given = {value for value in inputs if _is_key(value)}
    lines = _follow(body, given, survivors)
    if not lines:
        return None
    where = f" ({lines[0]})" if lines[0] else ""
    return f"it draws random numbers from a key that is not given to it{where}"


def _is_key(value: Value) -> bool:
    if value.dtype is not None and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return True
    return value.dtype == np.uint32 and value.shape[-1:] in {(n,) for n in RAW_KEY_SIZES}


def _follow(body: Body, given: set[Value], survivors: Survivors) -> list[str | None]:
    """Adds to ``given`` what is made of it; returns the lines of draws from anything else."""
    lines: list[str | None] = []
    for node in body.nodes:
        known = [value in given for value in node.ins]
        if node.name in DRAWS and not any(known) and any(map(survivors.is_cut, node.outs)):
            lines.append(source_line(node.eqn))
        if node.bodies:
            inner = _follow_within(node, known, given, survivors)
            lines += [line or source_line(node.eqn) for line in inner]
        elif _passes_on(node.name, known):
            given.update(node.outs)
    return lines


def _passes_on(name: str, known: Sequence[bool]) -> bool:
    """Whether an equation gives keys, or numbers drawn from keys, that it was given."""
    if name in ("concatenate", "select_n"):
        return all(known[name == "select_n" :])
    return name in (*FROM_KEYS, *DRAWS, *MOVES) and bool(known) and known[0]


def _follow_within(
    node: Node, known: list[bool], given: set[Value], survivors: Survivors
) -> list[str | None]:
    """The same in an equation's bodies; its results are given where all bodies make them so."""
    results = node.bodies
    if node.name == "scan":
        (body,), (consts, carries) = node.bodies, scan_counts(node)
        carried = range(consts, consts + carries)
        _give(body.ins, _in_every_turn(body, known, carried, given, survivors), given)
    elif node.name == "while":
        (condition, body), results = node.bodies, node.bodies[1:]
        first, consts = node.params["cond_nconsts"], node.params["body_nconsts"]
        carried = range(consts, len(body.ins))
        steady = _in_every_turn(body, known[first:], carried, given, survivors)
        _give(condition.ins, [*known[:first], *steady[consts:]], given)
        _give(body.ins, steady, given)
    # The bodies of any other equation are opened on its operands themselves.
    lines = [line for body in node.bodies for line in _follow(body, given, survivors)]
    for number, value in enumerate(node.outs):
        if all(body.outs[number] in given for body in results):
            given.add(value)
    return lines


def _in_every_turn(
    body: Body, known: Sequence[bool], carried: range, given: set[Value], survivors: Survivors
) -> list[bool]:
    """Which inputs of a loop's body are given in every turn: what is carried, also afterwards."""
    steady = list(known)
    while any(steady[number] for number in carried):
        trial = set(given)
        _give(body.ins, steady, trial)
        _follow(body, trial, survivors)
        after = [out in trial for out in body.outs[: len(carried)]]
        lost = [n for n, still in zip(carried, after, strict=True) if steady[n] and not still]
        if not lost:
            break
        for number in lost:
            steady[number] = False
    return steady


def _give(values: Sequence[Value], known: Sequence[bool], given: set[Value]) -> None:
    given.update(value for value, is_known in zip(values, known, strict=True) if is_known)
