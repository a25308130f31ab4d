"""How large the groups are: a histogram of norms for each space, zeros set apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from oto_jax.errors import PlotError
from oto_jax.plot.canvas import CUT, KEPT, axes_or_new, height_of_rows, log_ticks
from oto_jax.plot.norms import measure_norms
from oto_jax.zigs.partition import ZIGs


@dataclasses.dataclass(frozen=True)
class NormHistogram:
    """Counts of groups by norm.

    Attributes:
      names: of the spaces.
      edges: of the bins, equally far apart on a log axis; shape ``(bins + 1,)``.
      counts: of groups in each bin, shape ``(spaces, bins)``.
      zeros: of groups that are exactly zero and hence in no bin, shape ``(spaces,)``.

    Example:
      >>> found = NormHistogram(
      ...     ("a",), np.array([1.0, 2.0, 4.0]), np.array([[3, 1]]), np.array([2]))
      >>> (found.counts.sum(1) + found.zeros).tolist()
      [6]
    """

    names: tuple[str, ...]
    edges: np.ndarray
    counts: np.ndarray
    zeros: np.ndarray


def count_norms(params: Any, zigs: ZIGs, bins: int = 48) -> NormHistogram:
    """Counts the groups of each space by norm.

    Args:
      params: the parameters, or the variables that hold them.
      zigs: the groups.
      bins: how many there are between the smallest and the largest norm that is not zero.

    Returns:
      The counts. In each row they add up, with the zeros, to the size of the space.

    Raises:
      PlotError: if there are no groups, or fewer than one bin is asked for.
      ZIGMismatchError: if the parameters are not those of ``zigs``.
      NonFiniteParametersError: if a parameter holds NaN or infinity.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 0.0, 8.0]]), "b": jnp.ones((3, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> found = count_norms(params, zigs, bins=3)
      >>> found.counts.tolist(), found.zeros.tolist()
      ([[1, 0, 1]], [1])
    """
    if not zigs.num_groups or bins < 1 or bins != int(bins):
        raise PlotError(f"{zigs.num_groups} groups in {bins} bins: there is nothing to count")
    norms = measure_norms(params, zigs)
    edges = _edges(norms[norms > 0], bins)
    rows = [norms[space.start : space.start + space.size] for space in zigs.spaces]
    # The outermost edges are rounded outwards, so no norm falls beside them.
    counts = np.array([np.histogram(row[row > 0], edges)[0] for row in rows])
    zeros = np.array([np.count_nonzero(row == 0) for row in rows])
    return NormHistogram(tuple(space.name for space in zigs.spaces), edges, counts, zeros)


def _edges(norms: np.ndarray, bins: int) -> np.ndarray:
    low, high = (norms.min(), norms.max()) if norms.size else (0.1, 1.0)
    return np.geomspace(low * (1 - 1e-6), high * (1 + 1e-6), bins + 1)


def histogram(params: Any, zigs: ZIGs, *, bins: int = 48, ax: Axes | None = None) -> Axes:
    """A histogram of group norms for each space, on one log axis, with the zeros set apart.

    In each row the blue bars are as high as their counts, the highest filling the row; the
    vermilion bar beside them is the share of the space's groups that are exactly zero.

    Args:
      params: the parameters, or the variables that hold them.
      zigs: the groups.
      bins: of the histogram.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes. Their containers are labelled with the spaces' names and, for the zeros, ``zero``
      before them.

    Raises:
      PlotError: if there are no groups, or fewer than one bin is asked for.
      ZIGMismatchError: if the parameters are not those of ``zigs``.
      NonFiniteParametersError: if a parameter holds NaN or infinity.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> from matplotlib.figure import Figure
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 0.0, 8.0]]), "b": jnp.ones((3, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> ax = histogram(params, zigs, ax=Figure().add_subplot())
      >>> [label.get_text() for label in ax.get_yticklabels()]
      ['a']
    """
    found = count_norms(params, zigs, bins)
    rows = len(found.names)
    ax = axes_or_new(ax, height_of_rows(rows, 0.45))
    places = np.log10(found.edges)
    column = _ZeroColumn.beside(places)
    for number, (counts, zeros) in enumerate(zip(found.counts, found.zeros, strict=True)):
        bottom = rows - 1 - number
        name, size = found.names[number], int(counts.sum() + zeros)
        heights = 0.85 * counts / max(1, counts.max())
        ax.bar(places[:-1], heights, np.diff(places), bottom, align="edge", color=KEPT, label=name)
        column.draw(ax, bottom, int(zeros), size, name)
        ax.axhline(bottom, color="0.6", linewidth=0.6)
    _finish(ax, found, column)
    return ax


@dataclasses.dataclass(frozen=True)
class _ZeroColumn:
    """The place of the zeros, in powers of ten, left of every bin; and of what is said there."""

    left: float
    width: float

    @classmethod
    def beside(cls, places: np.ndarray) -> _ZeroColumn:
        span = places[-1] - places[0]
        return cls(places[0] - 0.2 * span, 0.05 * span)

    def draw(self, ax: Axes, bottom: int, zeros: int, size: int, name: str) -> None:
        height = 0.85 * zeros / size
        ax.bar(self.left, height, self.width, bottom, align="edge", color=CUT, label=f"zero {name}")
        text = f"{zeros} of {size}"
        x = self.left + 1.15 * self.width
        ax.text(x, bottom + 0.15, text, fontsize="small", color=CUT if zeros else "0.4")


def _finish(ax: Axes, found: NormHistogram, column: _ZeroColumn) -> None:
    """Ticks, labels and the line between the zeros and the rest."""
    ticks = log_ticks(found.edges[0], found.edges[-1])
    middle = column.left + column.width / 2
    ax.set_xticks([middle, *np.log10(ticks)], ["exactly 0", *(f"{tick:g}" for tick in ticks)])
    ax.axvline(column.left + 3.6 * column.width, color="0.6", linestyle=":", linewidth=1)
    ax.set_xlim(column.left - column.width / 2, np.log10(found.edges[-1]) + column.width / 2)
    rows = len(found.names)
    ax.set_yticks(rows - 1 - np.arange(rows) + 0.35, found.names, fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, rows)
    ax.set(xlabel="norm of a group (log scale)", title="Norms of the groups of each space")
