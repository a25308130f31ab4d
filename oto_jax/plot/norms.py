"""Norms of groups: measuring them, and drawing them over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch

from oto_jax.errors import PlotError
from oto_jax.plot.canvas import CUT, KEPT, axes_or_new, check_same_length, mark_switch
from oto_jax.prune.zero_units import host_values, nonzero_units
from oto_jax.zigs.partition import ZIGs, check_parameters

Rows = Sequence[Sequence[float]] | Sequence[np.ndarray] | np.ndarray


def measure_norms(params: Any, zigs: ZIGs) -> np.ndarray:
    r"""The Euclidean norm :math:`\|x_g\|_2` of every group, in float64 on the host.

    It is 0 exactly where every entry of the group is; a norm that is too small for float64 counts
    as its smallest normal number.

    Args:
      params: the parameters, or the variables that hold them.
      zigs: the groups.

    Returns:
      An array of shape ``(zigs.num_groups,)``, in the order of the groups' numbers.

    Raises:
      ZIGMismatchError: if the parameters are not those of ``zigs``, or hold no values.
      NonFiniteParametersError: if a parameter holds NaN or infinity.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> measure_norms(params, zigs).tolist()
      [5.0, 0.0]
    """
    alive = nonzero_units(params, zigs)
    squares = np.zeros(zigs.num_groups)
    for path, leaf in check_parameters(zigs, params).items():
        for space, member in zigs.members_by_path.get(path, ()):
            entries = np.square(host_values(path, leaf).astype(np.float64))
            others = tuple(axis for axis in range(entries.ndim) if axis != member.axis)
            units = member.unit_of_position(entries.shape[member.axis])
            covered = units >= 0
            np.add.at(squares, space.start + units[covered], entries.sum(others)[covered])
    living = np.concatenate([np.zeros(0, bool), *(alive[space.name] for space in zigs.spaces)])
    return np.where(living, np.maximum(np.sqrt(squares), np.finfo(np.float64).tiny), 0.0)


def norm_curves(
    steps: Sequence[float],
    norms: Rows,
    *,
    ax: Axes | None = None,
    stage_switch: float | None = None,
    unit: str = "step",
) -> Axes:
    """One line per group on a log axis; a line ends where its group becomes exactly zero.

    Args:
      steps: when the norms were taken, of length ``times``.
      norms: norms of the groups, shape ``(times, groups)``; rows as of `measure_norms`.
      ax: where to draw; None makes a new figure.
      stage_switch: when stage 2 begins, to be marked; None marks nothing.
      unit: what ``steps`` count.

    Returns:
      The axes.

    Raises:
      PlotError: if there are not as many rows of norms as steps, or none.

    Example:
      >>> from matplotlib.figure import Figure
      >>> ax = norm_curves([0, 1], [[1.0, 2.0], [0.5, 0.0]], ax=Figure().add_subplot())
      >>> [text.get_text() for text in ax.get_legend().get_texts()]
      ['exactly zero: 1', 'kept: 1']
    """
    table = _table(steps, norms)
    ax = axes_or_new(ax, 3.6)
    dead = table[-1] == 0
    lines = np.where(table > 0, table, np.nan)
    for chosen, colour, outcome in ((dead, CUT, "exactly zero"), (~dead, KEPT, "kept")):
        if chosen.any():
            ax.plot(steps, lines[:, chosen], color=colour, alpha=0.35, linewidth=0.7)
            # A legend entry that is not faint:
            ax.plot([], [], color=colour, label=f"{outcome}: {chosen.sum()}")
    mark_switch(ax, stage_switch)
    ax.set(yscale="log", xlabel=unit, ylabel="norm of a group", title="Groups over training")
    ax.legend(fontsize="small", loc="lower right")
    return ax


def norm_map(
    steps: Sequence[float],
    norms: Rows,
    spaces: ZIGs | Mapping[str, int],
    *,
    ax: Axes | None = None,
    stage_switch: float | None = None,
    unit: str = "step",
) -> Axes:
    """Norms over training as a heat map: a line of pixels per group, white where it is zero.

    Groups stand together by space; within one, those that died first are at the bottom.

    Args:
      steps: when the norms were taken, ascending, of length ``times``.
      norms: norms of the groups, shape ``(times, groups)``; rows as of `measure_norms`.
      spaces: the groups, or the number of groups of each space by its name, in order.
      ax: where to draw; None makes a new figure.
      stage_switch: when stage 2 begins, to be marked; None marks nothing.
      unit: what ``steps`` count.

    Returns:
      The axes; a colour bar is added to their figure.

    Raises:
      PlotError: if there are not as many rows of norms as steps, or not as many columns as groups.

    Example:
      >>> from matplotlib.figure import Figure
      >>> ax = norm_map([0, 1], [[1.0, 2.0], [0.5, 0.0]], {"a": 2}, ax=Figure().add_subplot())
      >>> [label.get_text() for label in ax.get_yticklabels()]
      ['a (2)']
    """
    table = _table(steps, norms)
    sizes = _sizes(spaces, table.shape[1])
    ax = axes_or_new(ax, 4.2)
    order = _display_order(table, list(sizes.values()))
    shown = np.ma.masked_equal(table[:, order].T, 0)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="white")
    mesh = ax.pcolormesh(
        _edges(steps),
        np.arange(len(order) + 1),
        shown,
        norm=_log_scale(table),
        cmap=colours,
        rasterized=True,
    )
    figure = ax.get_figure()
    assert figure is not None  # Axes that can be drawn on belong to a figure.
    figure.colorbar(mesh, ax=ax, label="norm of a group", pad=0.01)
    mark_switch(ax, stage_switch)
    _label_spaces(ax, sizes)
    zero = Patch(facecolor="white", edgecolor="black", label="exactly zero")
    handles = [zero, *ax.get_legend_handles_labels()[0]]
    place = (1.0, 1.0)  # above the axes: inside, it would hide groups
    ax.legend(
        handles=handles,
        fontsize="small",
        frameon=False,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=place,
        borderaxespad=0.2,
    )
    ax.set_xlabel(unit)
    ax.set_title("Norms of all groups", loc="left")
    return ax


def _table(steps: Sequence[float], norms: Rows) -> np.ndarray:
    check_same_length(steps=steps, rows_of_norms=norms)
    lengths = sorted({np.size(row) for row in norms})
    if len(lengths) > 1:
        raise PlotError(
            f"the rows of norms hold from {lengths[0]} to {lengths[-1]} groups: each needs all,"
            " also those that were cut meanwhile (as zeros)"
        )
    table = np.asarray(norms, np.float64)
    if table.ndim != 2 or not table.shape[1]:
        raise PlotError(f"norms have shape {table.shape}; a row per step and a column per group")
    if not np.isfinite(table).all() or (table < 0).any():
        raise PlotError("a norm is negative, NaN or infinite; measure_norms gives none of these")
    return table


def _sizes(spaces: ZIGs | Mapping[str, int], groups: int) -> dict[str, int]:
    sizes = (
        {space.name: space.size for space in spaces.spaces}
        if isinstance(spaces, ZIGs)
        else dict(spaces)
    )
    if sum(sizes.values()) != groups:
        raise PlotError(
            f"the spaces hold {sum(sizes.values())} groups, the norms are of {groups}: give the"
            " spaces that the norms were measured with"
        )
    return sizes


def _display_order(table: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The first space on top; in each, the longer a group lived and the larger, the higher."""
    starts = np.cumsum([0, *sizes])
    order = []
    for start, size in reversed(list(zip(starts, sizes, strict=False))):
        block = table[:, start : start + size]
        order.append(start + np.lexsort((block[-1], (block > 0).sum(0))))
    return np.concatenate(order)


def _edges(steps: Sequence[float]) -> np.ndarray:
    """Where the columns of pixels begin and end: half-way between the steps."""
    centres = np.asarray(steps, float)
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _log_scale(table: np.ndarray) -> LogNorm:
    living = table[table > 0]
    low, high = (living.min(), living.max()) if living.size else (0.1, 1.0)
    return LogNorm(low, high if high > low else 2 * low)


def _label_spaces(ax: Axes, sizes: Mapping[str, int]) -> None:
    """The name of each space in its middle; where there is no room for one, it is left out."""
    total, top = sum(sizes.values()), sum(sizes.values())
    places, names, last = [], [], np.inf
    for name, size in sizes.items():
        middle = top - size / 2
        if last - middle >= total / 28:
            places.append(middle)
            names.append(f"{name} ({size})")
            last = middle
        top -= size
        ax.axhline(top, color="0.35", linewidth=0.6)
    ax.set_yticks(places, names, fontsize="small")
    ax.tick_params(axis="y", length=0)
