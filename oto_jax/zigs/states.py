"""What a slice is known to be when its unit is zero, and what a primitive makes of that.

A state is an exact number (usually 0.0), `UNKNOWN` (finite, but it may depend on the data) or
`INFINITE` (it may be infinite or NaN, so that even a product with zero is not zero). Only exact
arithmetic yields numbers: a transcendental function is exact at zero alone.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class Vague(enum.Enum):
    """States that are no number."""

    UNKNOWN = "not constant"
    INFINITE = "not finite"


UNKNOWN, INFINITE = Vague.UNKNOWN, Vague.INFINITE
State = float | Vague


def join(left: State, right: State) -> State:
    """What holds when either may be the case."""
    if left == right:
        return left
    return INFINITE if INFINITE in (left, right) else UNKNOWN


def describe(state: State) -> str:
    """A state in words."""
    return state.value if isinstance(state, Vague) else f"{state:g}"


AT_ZERO: Mapping[str, float] = {
    **dict.fromkeys(
        "sin tan tanh asin asinh atan atanh sinh erf erf_inv expm1 log1p sqrt cbrt round imag"
        " conj".split(),
        0.0,
    ),
    **dict.fromkeys("exp exp2 cos cosh erfc bessel_i0e".split(), 1.0),
    "logistic": 0.5,
    "bessel_i1e": 0.0,
}
"""Functions that are exact at zero, and nowhere else."""

POLE_AT_ZERO = frozenset(("log", "log2", "rsqrt", "digamma", "lgamma"))

EXACT: Mapping[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "add_any": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "max": max,
    "min": min,
    "neg": lambda x: -x,
    "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0),
    "floor": math.floor,
    "ceil": math.ceil,
    "square": lambda x: x * x,
    "not": lambda x: not x,
    "and": lambda x, y: int(x) & int(y),
    "or": lambda x, y: int(x) | int(y),
    "xor": lambda x, y: int(x) ^ int(y),
    "complex": complex,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "clamp": lambda low, x, high: min(max(x, low), high),
    "is_finite": math.isfinite,
    **dict.fromkeys(
        "convert_element_type copy copy_p name stop_gradient real sharding_constraint".split(),
        lambda x: x,
    ),
}
"""Primitives whose value at exact numbers is an exact number."""


def elementwise(
    name: str, params: Mapping[str, Any], states: Sequence[State], is_bool: bool, dtype: Any
) -> State:
    """The state of an elementwise primitive's result, an array of ``dtype``."""
    return in_dtype(_elementwise(name, params, states, is_bool), dtype)


def in_dtype(state: State, dtype: Any) -> State:
    """A state after rounding to a type: a number that has to be rounded is not known any more.

    Backends differ in where they round, so that only a number that needs no rounding is exact.
    """
    if isinstance(state, Vague) or state == 0.0:
        return state
    with np.errstate(all="ignore"):
        try:
            held = complex(np.asarray(state).astype(dtype))
        except (TypeError, ValueError):  # A type that holds no numbers, such as that of keys.
            return UNKNOWN
    if not (math.isfinite(held.real) and abs(state) < 2**53):
        return INFINITE
    return state if held == state else UNKNOWN


def _elementwise(
    name: str, params: Mapping[str, Any], states: Sequence[State], is_bool: bool
) -> State:
    if name == "select_n":
        return _select(states)
    if INFINITE in states:
        return INFINITE
    special = _SPECIAL.get(name)
    if special is not None:
        return special(params, states)
    if UNKNOWN in states:
        return 0.0 if name == "and" and 0.0 in states else UNKNOWN
    numbers = [float(s) for s in states if not isinstance(s, Vague)]
    if numbers == [0.0] and name in AT_ZERO:
        return AT_ZERO[name]
    if 0.0 in numbers and name in POLE_AT_ZERO:
        return INFINITE
    if name not in EXACT or (name == "not" and not is_bool):
        return UNKNOWN
    value = EXACT[name](*numbers)
    if isinstance(value, complex):
        return 0.0 if value == 0 else UNKNOWN
    value = float(value)
    return value if math.isfinite(value) else INFINITE


def _select(states: Sequence[State]) -> State:
    which, *cases = states
    if not isinstance(which, Vague):
        return cases[int(which)]
    joined = cases[0]
    for case in cases[1:]:
        joined = join(joined, case)
    return INFINITE if which is INFINITE else joined


def _magnitude(state: State) -> float:
    return 1.0 if isinstance(state, Vague) else abs(state)


def _mul(_params: Mapping[str, Any], states: Sequence[State]) -> State:
    left, right = states
    if 0.0 in states:
        return INFINITE if math.inf in map(_magnitude, states) else 0.0
    if isinstance(left, Vague) or isinstance(right, Vague):
        return UNKNOWN
    return left * right


def _div(_params: Mapping[str, Any], states: Sequence[State]) -> State:
    left, right = states
    if right == 0.0:
        return INFINITE
    if left == 0.0:
        return 0.0
    if isinstance(left, Vague) or isinstance(right, Vague):
        return UNKNOWN
    return left / right


def _rem(_params: Mapping[str, Any], states: Sequence[State]) -> State:
    if states[1] == 0.0:
        return INFINITE
    return 0.0 if states[0] == 0.0 else UNKNOWN


def _integer_pow(params: Mapping[str, Any], states: Sequence[State]) -> State:
    return _power(states[0], float(params["y"]))


def _pow(_params: Mapping[str, Any], states: Sequence[State]) -> State:
    return _power(states[0], states[1])


def _power(base: State, exponent: State) -> State:
    if exponent == 0.0:
        return 1.0
    if base != 0.0:
        return 1.0 if base == 1.0 else UNKNOWN
    if isinstance(exponent, Vague) or exponent < 0:
        return INFINITE
    return 0.0


def _reduce_precision(params: Mapping[str, Any], states: Sequence[State]) -> State:
    """Small whole numbers keep their digits, whatever digits are left."""
    state = states[0]
    if isinstance(state, Vague) or state in (-1.0, 0.0, 1.0):
        return state
    return INFINITE  # By few bits of exponent.


def _convert(params: Mapping[str, Any], states: Sequence[State]) -> State:
    state = states[0]
    kind = getattr(params.get("new_dtype"), "kind", "f")
    if isinstance(state, Vague) or kind not in "biu":
        return state
    return float(bool(state)) if kind == "b" else float(int(state))


_SPECIAL: Mapping[str, Callable[[Mapping[str, Any], Sequence[State]], State]] = {
    "mul": _mul,
    "div": _div,
    "rem": _rem,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "convert_element_type": _convert,
    "reduce_precision": _reduce_precision,
}
