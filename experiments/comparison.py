"""Dense against slim: what is measured of both, and the table that shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments.latency import median_latency_ms

BATCH_SIZES = (1, 256)


@dataclasses.dataclass(frozen=True)
class Network:
    """A Linen module with its variables, as it is used after training."""

    model: nn.Module
    variables: Any

    def compiled(self) -> Callable[[Any], jax.Array]:
        """Inputs to outputs, compiled; the variables are arguments, not constants."""
        apply = jax.jit(self.model.apply)
        return lambda inputs: apply(self.variables, inputs)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is measured of one network.

    Attributes:
      test_accuracy: share of the test images that are classified rightly.
      parameters: number of trained entries.
      macs: multiply-accumulates for one image.
      latency_ms: median milliseconds by batch size.
    """

    test_accuracy: float
    parameters: int
    macs: int
    latency_ms: dict[str, float]


def accuracy(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose largest output is at their label."""
    return float(np.mean(np.argmax(np.asarray(network.compiled()(images)), -1) == labels))


def latencies_ms(
    networks: Mapping[str, Network], images: np.ndarray, batch_sizes: Iterable[int] = BATCH_SIZES
) -> dict[str, dict[str, float]]:
    """Median milliseconds by network and batch size; at each batch size they take turns."""
    found: dict[str, dict[str, float]] = {name: {} for name in networks}
    for size in batch_sizes:
        batch = jax.device_put(np.resize(images, (size, *images.shape[1:])))
        calls = {name: _call(network, batch) for name, network in networks.items()}
        for name, milliseconds in median_latency_ms(calls).items():
            found[name][str(size)] = milliseconds
    return found


def _call(network: Network, batch: jax.Array) -> Callable[[], jax.Array]:
    run = network.compiled()
    return lambda: run(batch)


def format_table(results: Mapping[str, Any]) -> str:
    """The figures of a result file as a Markdown table.

    Example:
      >>> side = {"test_accuracy": 0.99, "parameters": 1000, "macs": 5000, "latency_ms": {"1": 2.0}}
      >>> print(format_table({"full": side, "slim": side, "worst_relative_difference": 1e-6}))
      |                    |    full |    slim | slim / full |
      |--------------------|--------:|--------:|------------:|
      | test accuracy      |  99.00% |  99.00% |             |
      | parameters         |   1,000 |   1,000 |      100.0% |
      | MACs               |   5,000 |   5,000 |      100.0% |
      | latency at batch 1 | 2.00 ms | 2.00 ms |      100.0% |
      <BLANKLINE>
      Worst difference of an output: 1.0e-06 of the largest.
    """
    full, slim = results["full"], results["slim"]
    rows: list[tuple[str, ...]] = [("", "full", "slim", "slim / full")]
    rows.append(_row("test accuracy", "{:.2%}", full["test_accuracy"], slim["test_accuracy"], ""))
    for name, key in (("parameters", "parameters"), ("MACs", "macs")):
        rows.append(_row(name, "{:,}", full[key], slim[key]))
    for size, milliseconds in full["latency_ms"].items():
        name = f"latency at batch {size}"
        rows.append(_row(name, "{:.2f} ms", milliseconds, slim["latency_ms"][size]))
    worst = f"{results['worst_relative_difference']:.1e}"
    return f"{align(rows)}\n\nWorst difference of an output: {worst} of the largest."


def _row(
    name: str, form: str, full: float, slim: float, ratio: str | None = None
) -> tuple[str, ...]:
    share = f"{slim / full:.1%}" if ratio is None else ratio
    return name, form.format(full), form.format(slim), share


def align(rows: list[tuple[str, ...]]) -> str:
    """Rows of equal length as a Markdown table; the first row heads it, numbers stand right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines = ["| " + " | ".join(_pad(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def _pad(row: tuple[str, ...], widths: list[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
