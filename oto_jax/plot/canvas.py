"""Colours, new axes, ticks of logarithmic scales, and checks that all plots share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from oto_jax.errors import PlotError

KEPT, CUT, FULL = "#0072B2", "#D55E00", "#D9D9D9"
# Okabe and Ito's other colours, for what is told apart by a legend; vermilion stays for the dead.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C510A", "#999999")
WIDE = 8  # From this ratio of sizes on, the small ones would vanish on a linear axis.
WIDTH = 8.0  # inches: 800 pixels at the usual 100 dots per inch


def axes_or_new(ax: Axes | None, height: float, width: float = WIDTH) -> Axes:
    """The given axes, or those of a new figure of the given size in inches."""
    return ax if ax is not None else new_axes(1, width, height)[0]


def new_axes(columns: int, width: float, height: float, **gridspec: Any) -> list[Axes]:
    """Axes side by side in a new figure, made by pyplot so that it is shown."""
    import matplotlib.pyplot as plt  # Only here: who gives axes needs no pyplot.

    figure = plt.figure(figsize=(width, height), layout="constrained")
    return list(figure.subplots(1, columns, squeeze=False, gridspec_kw=gridspec)[0])


def height_of_rows(rows: int, each: float = 0.34) -> float:
    """Inches for a plot with so many labelled rows."""
    return min(1.2 + each * rows, 24.0)


def write_beside(ax: Axes, text: str, x: float, y: float) -> None:
    """A small text just right of a point, also where that is outside the axes."""
    ax.annotate(
        text,
        (x, y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
        annotation_clip=False,
    )


def mark_switch(ax: Axes, switch: float | None) -> None:
    """A dashed line where stage 2 begins."""
    if switch is not None:
        ax.axvline(switch, color="black", linestyle="--", linewidth=1, label="stage 2 begins")


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in ``[low, high]``: powers of ten, or finer where these would be too few.

    Example:
      >>> log_ticks(0.05, 30.0), log_ticks(1.5, 4.0)
      ([0.1, 1.0, 10.0], [2.0, 3.0, 4.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        ticks = [float(f"{d}e{k}") for k in decades for d in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: max(1, len(ticks) // 7)]


def check_same_length(**lengths: Sequence[Any] | np.ndarray) -> None:
    """Raise unless all have one length, above zero.

    Raises:
      PlotError: naming each with its length.
    """
    found = {name: len(values) for name, values in lengths.items()}
    if len(set(found.values())) > 1 or not all(found.values()):
        listed = ", ".join(f"{count} {name}" for name, count in found.items())
        raise PlotError(f"there are {listed}: give as many of each, and at least one")
