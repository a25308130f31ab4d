"""A short text that tells whether two models compute the same, as far as their code goes."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from oto_jax.prune.agreement import Program
from oto_jax.prune.equations import equations
from oto_jax.zigs.call import Call


def fingerprint(program: Program, call: Call) -> dict[str, Any]:
    """A checksum of the traced program, and under what it was traced.

    Args:
      program: a model as a function of its variables.
      call: its arguments.

    Returns:
      JSON values. Two of them speak of different models if they differ in ``"steps"`` alone.
    """
    digest = hashlib.sha256()
    closed = jax.make_jaxpr(program.fn)(program.variables, *call.arrays())
    for text in _steps(closed):
        digest.update(text.encode())
    return {
        "steps": digest.hexdigest(),
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
        "backend": jax.default_backend(),
        "x64": bool(jax.config.read("jax_enable_x64")),
    }


def contradict(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two fingerprints are of different models; never where they cannot be compared."""
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)] == ["steps"]


def _steps(closed: Any) -> Iterator[str]:
    """Every equation: primitive, numbers in its parameters and operands, types of its results."""
    for const in closed.consts:
        yield _number(const)
    for eqn, times in equations(closed.jaxpr):
        yield f"{eqn.primitive.name} {times}"
        for name, value in sorted(eqn.params.items()):
            if _is_plain(value):
                yield f"{name}={value}"
        for atom in eqn.invars:
            if isinstance(atom, jex.Literal):
                yield _number(atom.val)
        for var in eqn.outvars:
            yield var.aval.str_short()


def _number(value: Any) -> str:
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(entry) for entry in value)
    return isinstance(value, bool | int | float)
