"""The equations of a jaxpr, with how often each runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core as jex


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation inside a jaxpr, at any depth, and the number of times it runs.

    The body of a ``scan`` runs ``length`` times, that of a Pallas kernel once per grid point. A
    ``while`` says nothing about its number of turns: its body counts once. Of the branches of a
    ``cond`` each is given.
    """
    for eqn in jaxpr.eqns:
        yield eqn, times
        for inner in inner_jaxprs(eqn):
            yield from equations(inner, times * repeats(eqn))


def repeats(eqn: Any) -> int:
    """How often the jaxprs inside an equation run each time it does."""
    if eqn.primitive.name == "scan":
        return int(eqn.params["length"])
    if eqn.primitive.name == "pallas_call":
        grid = eqn.params["grid_mapping"].grid
        return math.prod(size for size in grid if isinstance(size, int))
    return 1


def inner_jaxprs(eqn: Any) -> list[Any]:
    """The jaxprs among an equation's parameters."""
    found = []
    for value in eqn.params.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if isinstance(entry, jex.ClosedJaxpr):
                found.append(entry.jaxpr)
            elif isinstance(entry, jex.Jaxpr):
                found.append(entry)
    return found
