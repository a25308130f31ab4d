"""Sparsity of each space while a network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from oto_jax.errors import PlotError
from oto_jax.optim.metrics import GroupSparsity
from oto_jax.plot.canvas import COLOURS, axes_or_new, check_same_length, mark_switch

History = Sequence[GroupSparsity] | Mapping[str, Sequence[float] | np.ndarray]


def sparsity(
    steps: Sequence[float],
    history: History,
    *,
    ax: Axes | None = None,
    stage_switch: float | None = None,
    unit: str = "step",
) -> Axes:
    """The share of groups that are exactly zero over training, for each space and overall.

    Up to seven spaces have a line style of their own; more are coloured from dark to light in the
    order given.

    Args:
      steps: when the shares were taken, of length ``times``.
      history: what `oto_jax.group_sparsity` returned at each time; or for each space by name its
        shares, in [0, 1], where the name ``overall`` is the whole network.
      ax: where to draw; None makes a new figure.
      stage_switch: when stage 2 begins, to be marked; None marks nothing.
      unit: what ``steps`` count.

    Returns:
      The axes; a line for each space is labelled with its name.

    Raises:
      PlotError: if lengths differ, there is nothing to draw, or a share is out of [0, 1].

    Example:
      >>> from matplotlib.figure import Figure
      >>> ax = sparsity([0, 10, 20], {"a": [0.0, 0.25, 0.5]}, ax=Figure().add_subplot())
      >>> [line.get_label() for line in ax.lines]
      ['a']
    """
    shares = _shares(history)
    check_same_length(steps=steps, **shares)
    _check_range(shares)
    ax = axes_or_new(ax, 3.8)
    spaces = [name for name in shares if name != "overall"]
    for name, style in zip(spaces, _styles(len(spaces)), strict=True):
        ax.plot(steps, 100 * shares[name], label=name, **style)
    if "overall" in shares:
        ax.plot(steps, 100 * shares["overall"], color="black", linewidth=2.5, label="overall")
    mark_switch(ax, stage_switch)
    ax.set(ylim=(-3, 103), xlabel=unit, ylabel="groups that are zero (%)")
    ax.set_title("Sparsity over training")
    _legend(ax, spaces)
    return ax


def _shares(history: History) -> dict[str, np.ndarray]:
    if isinstance(history, Mapping):
        return {name: np.asarray(values, float) for name, values in history.items()}
    if not history:
        raise PlotError("there is no history: take group_sparsity at one step at least")
    names = history[0].per_space
    table = {name: np.array([float(row.per_space[name]) for row in history]) for name in names}
    return {**table, "overall": np.array([float(row.overall) for row in history])}


def _check_range(shares: Mapping[str, np.ndarray]) -> None:
    if not shares:
        raise PlotError("there are no spaces to draw")
    for name, values in shares.items():
        if not ((values >= 0) & (values <= 1)).all():
            raise PlotError(f"shares of {name!r} are not all in [0, 1]; give shares, not percents")


def _styles(count: int) -> list[dict[str, Any]]:
    if count <= len(COLOURS):
        dashes = ("-", "--", "-.", ":")
        return [
            {"color": colour, "linestyle": dashes[number % 4], "linewidth": 1.6}
            for number, colour in enumerate(COLOURS[:count])
        ]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, count))
    return [{"color": colour, "linewidth": 1.0} for colour in colours]


def _legend(ax: Axes, spaces: Sequence[str]) -> None:
    """Beside the axes; of many spaces only the first and the last, which say what colours mean."""
    handles, labels = ax.get_legend_handles_labels()
    if len(spaces) > len(COLOURS):
        ends = {spaces[0]: f"first: {spaces[0]}", spaces[-1]: f"last: {spaces[-1]}"}
        names = {**ends, "overall": "overall", "stage 2 begins": "stage 2 begins"}
        kept = [(h, names[text]) for h, text in zip(handles, labels, strict=True) if text in names]
        handles, labels = [h for h, _ in kept], [text for _, text in kept]
    ax.legend(
        handles,
        labels,
        fontsize="small",
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
    )
