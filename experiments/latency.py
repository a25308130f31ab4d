"""How long a compiled function takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def median_latency_ms(
    calls: Mapping[str, Callable[[], Any]], *, repeats: int = 30, warm_up: int = 3
) -> dict[str, float]:
    """Median wall-clock time of calls, measured in turns.

    Taking turns spreads a busy moment of the machine over all that are compared.

    Args:
      calls: functions of nothing by name; what they return is waited for.
      repeats: how often each is timed.
      warm_up: how often each is run before, untimed (the first time compiles).

    Returns:
      Milliseconds by name.

    Example:
      >>> import jax.numpy as jnp
      >>> sorted(median_latency_ms({"add": lambda: jnp.ones(3) + 1, "nothing": lambda: None}))
      ['add', 'nothing']
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}
