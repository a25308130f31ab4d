"""Random numbers that a program draws, and whether their keys are given to it.

From a key that the caller gives, a narrower module draws other numbers of the same distribution:
that is what a dropout mask is. From a key written into the code it draws a constant of the model,
and a narrower one is another constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    for line in _redrawn(body, given, survivors):
        where = f" ({line})" if line else ""
        return f"it draws random numbers from a key that is not given to it{where}"
    return None


def _is_key(value: Value) -> bool:
    if value.dtype is not None and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return True
    return value.dtype == np.uint32 and value.shape[-1:] in {(n,) for n in RAW_KEY_SIZES}


def _redrawn(body: Body, given: set[Value], survivors: Survivors) -> Iterator[str | None]:
    """Source lines of such draws; ``given`` grows by what is made of it."""
    for node in body.nodes:
        known = [value in given for value in node.ins]
        if node.name in DRAWS and not any(known):
            if any(survivors.is_cut(value) for value in node.outs):
                yield source_line(node.eqn)
        if node.bodies:
            for line in _within(node, known, given, survivors):
                yield line or source_line(node.eqn)
        elif _passes_on(node.name, known):
            given.update(node.outs)


def _passes_on(name: str, known: Sequence[bool]) -> bool:
    """Whether an equation gives keys, or numbers drawn from keys, that it was given."""
    if name in ("concatenate", "select_n"):
        return all(known[name == "select_n" :])
    return name in (*FROM_KEYS, *DRAWS, *MOVES) and bool(known) and known[0]


def _within(
    node: Node, known: list[bool], given: set[Value], survivors: Survivors
) -> Iterator[str | None]:
    """The bodies of an equation; its results are given where all bodies make them of what is."""
    if node.name == "scan":
        consts, carries = scan_counts(node)
        known = _steady(node.bodies[0], known, consts, carries, given, survivors)
        _give(node.bodies[0].ins, known, given)
    elif node.name == "while":
        first = node.params["cond_nconsts"]
        second = first + node.params["body_nconsts"]
        known = [
            *known[:first],
            *_steady(node.bodies[1], known[first:], second - first, None, given, survivors),
        ]
        _give(node.bodies[0].ins, [*known[:first], *known[second:]], given)
        _give(node.bodies[1].ins, known[first:], given)
    for body in node.bodies:  # Other bodies are opened on the operands themselves.
        yield from _redrawn(body, given, survivors)
    results = node.bodies[1:] if node.name == "while" else node.bodies
    for number, value in enumerate(node.outs):
        if all(body.outs[number] in given for body in results):
            given.add(value)


def _steady(
    body: Body,
    known: list[bool],
    consts: int,
    carries: int | None,
    given: set[Value],
    survivors: Survivors,
) -> list[bool]:
    """Which inputs of a loop are given in every turn: what is carried has to be so afterwards."""
    known = list(known)
    carries = len(known) - consts if carries is None else carries
    while any(known[consts : consts + carries]):
        trial = set(given)
        _give(body.ins, known, trial)
        list(_redrawn(body, trial, survivors))
        lost = [
            consts + k for k in range(carries) if known[consts + k] and body.outs[k] not in trial
        ]
        if not lost:
            break
        for number in lost:
            known[number] = False
    return known


def _give(values: Sequence[Value], known: Sequence[bool], given: set[Value]) -> None:
    given.update(value for value, is_known in zip(values, known, strict=True) if is_known)
