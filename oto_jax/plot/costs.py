"""What a slim network costs beside the full one, and what is paid for it in score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from oto_jax.errors import PlotError
from oto_jax.plot.canvas import (
    COLOURS,
    FULL,
    KEPT,
    WIDE,
    axes_or_new,
    height_of_rows,
    log_ticks,
    write_beside,
)
from oto_jax.prune.certify import Certificate

Pairs = Mapping[str, tuple[float, float]]
Points = Sequence[tuple[float, float]]


def costs(compared: Certificate | Pairs, *, ax: Axes | None = None) -> Axes:
    """Parameters, multiply-accumulates and latency of the slim network, in percent of the full.

    Args:
      compared: what `oto_jax.certify` returned (with ``repeats`` for the latency); or full and
        slim figures by what they measure, unit included, such as ``"latency (ms)"``.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes; each bar is labelled with both figures.

    Raises:
      PlotError: if there is nothing to compare, or a figure is no positive number.

    Example:
      >>> from matplotlib.figure import Figure
      >>> ax = costs({"parameters": (169834, 12120)}, ax=Figure().add_subplot())
      >>> ax.texts[0].get_text()
      '7.1 %   (170 k → 12.1 k)'
    """
    pairs = _pairs(compared)
    shares = [100 * slim / full for full, slim in pairs.values()]
    ax = axes_or_new(ax, height_of_rows(len(pairs), 0.42))
    places = range(len(pairs))
    ax.barh(places, [100] * len(pairs), color=FULL, label="full")
    ax.barh(places, shares, color=KEPT, height=0.5, label="slim")
    for place, (share, (full, slim)) in enumerate(zip(shares, pairs.values(), strict=True)):
        text = f"{share:.1f} %   ({_short(full)} → {_short(slim)})"
        write_beside(ax, text, max(100, share), place)
    ax.set_yticks(places, list(pairs))
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.55 * max(100, *shares)), xlabel="% of the full network")
    ax.set_xticks(np.arange(0, max(100, *shares) + 1, 25))
    ax.set_title("Cost of the slim network (blue) and of the full one (grey)")
    return ax


def _pairs(compared: Certificate | Pairs) -> dict[str, tuple[float, float]]:
    if isinstance(compared, Certificate):
        compared = _figures(compared)
    if not compared:
        raise PlotError("there is nothing to compare")
    for name, pair in compared.items():
        if np.shape(pair) != (2,) or not np.all(np.isfinite(pair)) or min(pair) < 0 or not pair[0]:
            raise PlotError(f"{name!r} is {pair}; give the full and the slim figure")
    return dict(compared)


def _figures(certificate: Certificate) -> Pairs:
    full, slim = certificate.full, certificate.slim
    found: dict[str, tuple[float, float]] = {
        "parameters": (full.parameters, slim.parameters),
        "MACs": (full.macs, slim.macs),
    }
    if full.latency is not None and slim.latency is not None:
        found["latency (ms)"] = (1e3 * full.latency, 1e3 * slim.latency)
    return found


def _short(value: float) -> str:
    """Three digits and a letter for thousands, millions or billions.

    Example:
      >>> _short(169834), _short(0.305), _short(25_557_032), _short(999_600)
      ('170 k', '0.305', '25.6 M', '1 M')
    """
    for letter, size in (("", 1.0), (" k", 1e3), (" M", 1e6), (" G", 1e9), (" T", 1e12)):
        shown = f"{value / size:.3g}"
        if float(shown) < 1000:
            return shown + letter
    return f"{value:.3g}"


def trade_off(
    points: Points | Mapping[str, Points],
    *,
    dense: tuple[float, float] | None = None,
    cost: str = "MACs kept (%)",
    score: str = "test accuracy (%)",
    ax: Axes | None = None,
) -> Axes:
    """The score over the cost of networks that were pruned to several targets.

    Args:
      points: pairs of cost and score; or several such curves by name.
      dense: cost and score of the dense network, to be marked.
      cost: what the first numbers are, unit included.
      score: what the second numbers are, unit included.
      ax: where to draw; None makes a new figure.

    Returns:
      The axes; a line for each curve, its points ordered by cost. Where costs differ by a factor
      of eight or more, their axis is logarithmic.

    Raises:
      PlotError: if there are no points, or a number is NaN or infinite.

    Example:
      >>> from matplotlib.figure import Figure
      >>> ax = trade_off([(50, 91.0), (25, 88.5)], dense=(100, 91.7), ax=Figure().add_subplot())
      >>> ax.lines[0].get_xdata().tolist()
      [25.0, 50.0]
    """
    curves = dict(points) if isinstance(points, Mapping) else {"pruned": points}
    tables = {name: _ordered(name, curve) for name, curve in curves.items()}
    if not tables:
        raise PlotError("there are no curves to draw")
    ax = axes_or_new(ax, 3.8)
    for number, (name, table) in enumerate(tables.items()):
        colour, marker = COLOURS[number % len(COLOURS)], "osD^vP*"[number % 7]
        ax.plot(table[:, 0], table[:, 1], color=colour, marker=marker, label=name)
    if dense is not None:
        ax.axhline(dense[1], color="0.5", linestyle=":", linewidth=1.2)
        ax.plot(*dense, color="black", marker="*", markersize=12, linestyle="", label="dense")
    ax.set(xlabel=cost, ylabel=score, title="What is kept, and what it scores")
    _spread(ax, [*np.concatenate(list(tables.values()))[:, 0], *(dense or ())[:1]])
    ax.legend(fontsize="small")
    ax.grid(alpha=0.3)
    return ax


def _spread(ax: Axes, costs: Sequence[float]) -> None:
    """A log axis where the small costs would stand on top of each other on a linear one."""
    low, high = min(costs), max(costs)
    if low > 0 and high >= WIDE * low:
        ax.set_xscale("log")
        ax.set_xticks(log_ticks(low / 1.1, high * 1.1), minor=False)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlabel(f"{ax.get_xlabel()}, log scale")


def _ordered(name: str, curve: Points) -> np.ndarray:
    try:
        table = np.asarray(sorted(curve), float)
    except (TypeError, ValueError):  # no pairs, not all of one length, no numbers
        table = np.empty(0)
    if table.ndim != 2 or table.shape[1:] != (2,) or not np.isfinite(table).all():
        raise PlotError(f"the curve {name!r} needs pairs of cost and score, all finite")
    return table
