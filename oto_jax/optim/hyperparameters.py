"""Hyperparameters: checked where the user's mistake can still be named, resolved per space."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax

from oto_jax.errors import HyperparameterError, UnprunableModelError
from oto_jax.zigs.partition import ZIGs

Scalar: TypeAlias = float | jax.Array
Schedule: TypeAlias = Callable[[jax.Array], Any]
ScalarOrSchedule: TypeAlias = Scalar | Schedule
T = TypeVar("T")
PerSpace: TypeAlias = T | Mapping[str, T]
"""One value for all spaces, or a mapping from space names (or glob patterns) to values."""
MOST_STEPS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class AdaptiveEpsilon:
    """An epsilon that grows while its space has fewer zero groups than it may have.

    The recipe of the paper's BERT experiment: it starts at ``start``, and every ``every`` steps of
    stage 2, while the space's group sparsity is below its upper bound, ``increase`` is added, up to
    ``limit``.

    Attributes:
      start: epsilon at the first step of stage 2, in [0, 1).
      increase: what is added each time, in [0, 1).
      every: after how many steps, at least 1.
      limit: the largest epsilon, from ``start`` up to but not including 1.

    Raises:
      HyperparameterError: if a number is out of its range.

    Example:
      >>> import oto_jax
      >>> epsilon = {"*intermediate*": oto_jax.AdaptiveEpsilon(every=200)}
    """

    start: float = 0.0
    increase: float = 0.1
    every: int = 200
    limit: float = 0.999

    def __post_init__(self) -> None:
        for name in ("start", "increase", "limit"):
            value = getattr(self, name)
            low = self.start if name == "limit" else 0.0
            check_number(f"AdaptiveEpsilon({name})", value, low=low, below=1.0, scheduled=False)
        check_steps("AdaptiveEpsilon(every)", self.every, low=1)


Epsilon: TypeAlias = ScalarOrSchedule | AdaptiveEpsilon


def check_steps(name: str, value: Any, *, low: int) -> None:
    """Raise unless a hyperparameter is a whole number of steps, at least ``low``.

    Steps are compared with the count of steps, an int32, so a fraction would never come. An array
    that is being traced has no value to check yet.

    Raises:
      HyperparameterError: naming the argument and its value.

    Example:
      >>> check_steps("start_step", 0.1 * 55, low=0)
      Traceback (most recent call last):
      oto_jax.errors.HyperparameterError: start_step must be a whole number of steps, not 5.5
    """
    check_number(name, value, low=low, high=MOST_STEPS, scheduled=False)
    if not isinstance(value, jax.core.Tracer) and float(value) != round(float(value)):
        raise HyperparameterError(f"{name} must be a whole number of steps, not {value}")


def check_number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    below: float | None = None,
    scheduled: bool = True,
) -> None:
    """Raise unless a hyperparameter is a finite number in its range.

    Schedules, and arrays that are being traced, have no value to check yet.

    Args:
      name: the argument, as the user wrote it.
      value: what was given for it.
      low: the smallest allowed value.
      high: the largest allowed value.
      below: a bound that the value may not reach.
      scheduled: whether a schedule may stand for it.

    Raises:
      HyperparameterError: naming the argument, its value and the range.

    Example:
      >>> check_number("momentum", 1.5, low=0.0, below=1.0)
      Traceback (most recent call last):
      oto_jax.errors.HyperparameterError: momentum must be at least 0.0 and below 1.0, not 1.5
    """
    if (callable(value) and scheduled) or isinstance(value, jax.core.Tracer):
        return
    number = _as_number(name, value, "a number or a schedule" if scheduled else "a number")
    inside = (
        math.isfinite(number)
        and (low is None or number >= low)
        and (high is None or number <= high)
        and (below is None or number < below)
    )
    if not inside:
        raise HyperparameterError(f"{name} must be {_in_words(low, high, below)}, not {value}")


def _as_number(name: str, value: Any, what: str) -> float:
    wrong = f"{name} must be {what}, not {value!r} ({type(value).__name__})"
    if isinstance(value, str):  # Python reads numbers from it, arithmetic does not.
        raise HyperparameterError(wrong)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise HyperparameterError(wrong) from error


def _in_words(low: float | None, high: float | None, below: float | None) -> str:
    bounds = [
        *([f"at least {low}"] if low is not None else []),
        *([f"at most {high}"] if high is not None else []),
        *([f"below {below}"] if below is not None else []),
    ]
    return " and ".join(bounds) or "finite"


def value_at(hyperparameter: ScalarOrSchedule, count: jax.Array) -> Any:
    """The value of a hyperparameter or schedule at step ``count``."""
    return hyperparameter(count) if callable(hyperparameter) else hyperparameter


def per_space(zigs: ZIGs, name: str, value: PerSpace[T], default: T) -> dict[str, T]:
    """A hyperparameter's value for every space.

    Args:
      zigs: the groups.
      name: the argument, for the error.
      value: one value, or a mapping from names of spaces to values. A key may be a glob pattern
        (``"*attention*"``); the first key that matches a space counts.
      default: what spaces get that no key matches.

    Returns:
      A value for each space's name.

    Raises:
      HyperparameterError: if a key matches no space.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> per_space(zigs, "epsilon", {"*": 0.5}, 0.0)
      {'a': 0.5}
    """
    names = [space.name for space in zigs.spaces]
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    for key in value:
        if not isinstance(key, str):
            raise HyperparameterError(f"{name} names spaces by their names, not by {key!r}")
        if not any(_matches(space, key) for space in names):
            raise HyperparameterError(
                f"{name} names the space {key!r}, which is not among {', '.join(names)}"
            )
    return {
        space: next((v for key, v in value.items() if _matches(space, key)), default)
        for space in names
    }


def _matches(space: str, key: str) -> bool:
    return space == key or fnmatch.fnmatchcase(space, key)


def check_has_groups(zigs: ZIGs) -> None:
    """Raise if there is nothing that an optimizer could put to zero."""
    if not zigs.spaces:
        raise UnprunableModelError(
            "the ZIGs hold no group, so nothing can become zero; zigs.blocked says why of every"
            " axis, and another optimizer will do"
        )
