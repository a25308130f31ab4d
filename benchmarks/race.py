"""Timing several calls in turn, so that a busy moment of the machine falls on all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

LEAST_ROUNDS = 3


def race(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    per_round: int = 1,
    seconds: float = float("inf"),
    seed: int = 0,
) -> dict[str, list[float]]:
    """Seconds of each call; a first round, untimed, warms up.

    The order is drawn anew for each round, so that what goes before, or a machine that grows warm
    within a round, favours none.

    Args:
      calls: functions of nothing by name; what they return is waited for.
      rounds: how many, at most.
      per_round: how often each is called before it is the next one's turn.
      seconds: after which no new round begins, though never before three.
      seed: of the orders.

    Example:
      >>> found = race({"nothing": lambda: None, "sum": lambda: sum(range(9))}, rounds=4)
      >>> {name: len(times) for name, times in found.items()}
      {'nothing': 4, 'sum': 4}
    """
    for call in calls.values():
        _timed(call, per_round)
    found: dict[str, list[float]] = {name: [] for name in calls}
    order, rng = list(calls), random.Random(seed)
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() - begun > seconds:
            break
        rng.shuffle(order)
        for name in order:
            found[name] += _timed(calls[name], per_round)
    return found


def _timed(call: Callable[[], Any], times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds


def compared(times: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """One contestant beside another: medians, and the spread of the ratios round by round.

    Args:
      times: seconds of each round.
      base: those of the contestant to compare with.

    Returns:
      ``median_ms``, ``smallest_ms``, ``ratio`` of the medians, its ``ratio_quartiles``, ``rounds``.

    Example:
      >>> compared([0.002, 0.002, 0.004], [0.001, 0.002, 0.002])["ratio"]
      1.0
    """
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "median_ms": 1e3 * statistics.median(times),
        "smallest_ms": 1e3 * min(times),
        "ratio": statistics.median(times) / statistics.median(base),
        "ratio_quartiles": [low, high],
        "rounds": len(times),
    }
