"""`certify`: the full and the slim model side by side, run and counted."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.difference import worst_difference
from oto_jax.prune.framework import framework_of
from oto_jax.prune.macs import count_macs, count_parameters
from oto_jax.prune.values import full_precision


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one model costs on the given inputs; ``latency`` in seconds, None if not measured."""

    parameters: int
    macs: int
    latency: float | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Certificate:
    """How far the slim model's outputs are from the full one's, and what both cost.

    Attributes:
      absolute: the worst absolute difference over all outputs.
      relative: the worst difference relative to the largest magnitude of its output.
      full: what the full model costs; its multiply-accumulates (MACs) are those of the call, all of
        the inputs together.
      slim: what the slim model costs.

    Example:
      >>> certificate = Certificate(0.0, 0.0, Cost(parameters=8, macs=40), Cost(4, 10))
      >>> print(certificate)
      worst difference  0.00e+00  (0.00e+00 of the largest output)
                              full            slim     kept
      parameters                 8               4    50.0%
      MACs, call                40              10    25.0%
    """

    absolute: float
    relative: float
    full: Cost
    slim: Cost

    def __repr__(self) -> str:
        rows = [
            f"worst difference  {self.absolute:.2e}  ({self.relative:.2e} of the largest output)",
            f"{'':12}{'full':>16}{'slim':>16}{'kept':>9}",
            _row("parameters", self.full.parameters, self.slim.parameters, "{:,}"),
            _row("MACs, call", self.full.macs, self.slim.macs, "{:,}"),
        ]
        if self.full.latency is not None and self.slim.latency is not None:
            milliseconds = (1e3 * self.full.latency, 1e3 * self.slim.latency)
            rows.append(_row("latency", *milliseconds, "{:.3f} ms"))
        return "\n".join(rows)


def _row(name: str, full: float, slim: float, style: str) -> str:
    kept = f"{slim / full:9.1%}" if full else f"{'-':>9}"
    return f"{name:12}{style.format(full):>16}{style.format(slim):>16}{kept}"


def certify(full: Any, slim: Any, *inputs: Any, repeats: int = 0, **kwargs: Any) -> Certificate:
    """Runs both models on the same inputs and compares outputs and costs.

    Each model is one of: a pair ``(linen_module, variables)`` or ``(function, variables)``; what
    `prune` returned; an NNX module; a function of the inputs alone, whose parameters then count
    as 0.

    Outputs are computed in full precision: left to itself, an accelerator multiplies float32
    matrices with fewer digits, and so would show its own rounding. Latency is measured as the
    models run.

    Args:
      full: the model before pruning, on the variables whose groups are zero.
      slim: the model after.
      *inputs: what both are called with after their variables.
      repeats: how many timed runs the latency is the median of; 0 measures none.
      **kwargs: passed to both calls as they are (``train=False``).

    Returns:
      The certificate; printed, it is a table.

    Raises:
      OutputMismatchError: if the outputs have other structures or shapes.
      UnprunableModelError: if a model is none of the above.

    Example:
      >>> import jax.numpy as jnp
      >>> linear = lambda w, x: x @ w
      >>> a, b = jnp.ones((4, 2)), jnp.ones((4, 2))
      >>> certify((linear, a), (linear, b), jnp.ones((3, 4))).absolute
      0.0
    """
    runs = [_runnable(model, kwargs) for model in (full, slim)]
    (expected, full_cost), (found, slim_cost) = (
        _run(fn, variables, inputs, repeats) for fn, variables in runs
    )
    worst = worst_difference(expected, found)
    return Certificate(worst.absolute, worst.relative, full_cost, slim_cost)


def _runnable(model: Any, kwargs: Mapping[str, Any]) -> tuple[Callable[..., Any], Any]:
    """The model as ``fn(variables, *inputs)`` and its variables."""
    if hasattr(model, "plan") and hasattr(model, "variables"):
        in_model = framework_of(model.model) == "nnx"
        model = model.model if in_model else (model.model, model.variables)
    if framework_of(model) == "nnx":
        from oto_jax.prune import nnx

        return nnx.pure(model, kwargs)
    if isinstance(model, tuple) and len(model) == 2:
        module, variables = model
        apply = module.apply if framework_of(module) == "linen" else module
        return lambda v, *x: apply(v, *x, **kwargs), variables
    if callable(model):
        return lambda _, *x: model(*x, **kwargs), ()
    raise UnprunableModelError(
        "certify compares (module, variables) pairs, pruned models, NNX modules or functions, not"
        f" {type(model).__name__}"
    )


def _run(
    fn: Callable[..., Any], variables: Any, inputs: tuple[Any, ...], repeats: int
) -> tuple[Any, Cost]:
    variables, inputs = jax.device_put((variables, inputs))
    with full_precision():
        outputs = jax.block_until_ready(jax.jit(fn)(variables, *inputs))
    cost = Cost(
        parameters=count_parameters(variables),
        macs=count_macs(fn, variables, *inputs),
        latency=_latency(jax.jit(fn), (variables, *inputs), repeats) if repeats else None,
    )
    return outputs, cost


def _latency(run: Callable[..., Any], args: tuple[Any, ...], repeats: int) -> float:
    """Median wall time of one compiled call, in seconds."""
    jax.block_until_ready(run(*args))  # The first call compiles.
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)
