"""A short text that tells whether two models compute the same, as far as their code goes."""

from __future__ import annotations

import enum
import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from oto_jax.prune.agreement import Program
from oto_jax.prune.equations import inner_jaxprs
from oto_jax.zigs.call import Call

UNLIKE = ("name", "precision")
"""Parameters that differ between the same models: names of functions, a setting of JAX."""


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
    for text in _steps(closed.jaxpr, closed.consts):
        digest.update(f"{text}\n".encode())
    return {
        "steps": digest.hexdigest(),
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
        "backend": jax.default_backend(),
        "x64": bool(jax.config.read("jax_enable_x64")),
        "jit": not getattr(jax.config, "jax_disable_jit"),  # noqa: B009 - mypy does not know it
    }


def contradict(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two fingerprints are of different models; never where they cannot be compared."""
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)] == ["steps"]


def _steps(jaxpr: Any, consts: Sequence[Any]) -> Iterator[str]:
    """Every equation: primitive, parameters, operands and results, which are numbered."""
    numbers = {var: k for k, var in enumerate((*jaxpr.invars, *jaxpr.constvars))}
    yield from map(_number, consts)
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        yield from (f"{n}={_plain(v)}" for n, v in sorted(eqn.params.items()) if n not in UNLIKE)
        for atom in eqn.invars:
            yield _number(atom.val) if isinstance(atom, jex.Literal) else f"of {numbers[atom]}"
        for inner in inner_jaxprs(eqn):
            yield from _steps(inner, ())
        for var in eqn.outvars:
            numbers[var] = len(numbers)
            yield var.aval.str_short()
    for atom in jaxpr.outvars:
        yield _number(atom.val) if isinstance(atom, jex.Literal) else f"gives {numbers[atom]}"


def _number(value: Any) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _plain(value: Any) -> Any:
    """What a parameter says, as far as it is a number or a choice; code is compared apart."""
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, jex.ClosedJaxpr):
        return [_number(const) for const in value.consts]
    if isinstance(value, np.ndarray | jax.Array):
        return _number(value)
    return value if isinstance(value, bool | int | float | str | None) else None
