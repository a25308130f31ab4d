"""The network layer by layer, from input to output: how wide each was and how wide it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from oto_jax.errors import PlotError, ZIGMismatchError
from oto_jax.plot.canvas import FULL, KEPT, WIDE, WIDTH, axes_or_new
from oto_jax.prune.plan import ArrayPlan, Plan
from oto_jax.prune.prune import Pruned
from oto_jax.zigs.partition import Layer, Path, ZIGs, format_path

FIXED = "#B3D1E5"  # KEPT, made pale: wholly kept because it cannot be cut
SHARED = ("#E69F00", "#009E73", "#CC79A7", "#8C510A")  # Okabe and Ito's, without blues and red
LARGEST, SMALLEST = 8.0, 6.0  # points; type below that is left out
PANEL = 2.9  # inches from the lowest line to the highest number
LETTER = 0.6  # width of a letter in heights, on average
LEVEL = 0.07  # from line to line, in heights of the highest bar


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer as it is drawn: its output widths, and the numbers of the spaces they belong to."""

    name: str
    full: int
    kept: int
    spaces: tuple[int, ...]


def layers(
    plan: Plan | Pruned, zigs: ZIGs, *, ax: Axes | None = None, unit: str = "outputs of the layer"
) -> Axes:
    """The network as it computes, from left to right: a bar per layer, full and kept width.

    A layer is a parameter that maps some of its axes to others, such as the kernel of a dense
    layer or a convolution, or an embedding table; its width is the number of its outputs: of an
    attention's query, heads times head dimension. Layers whose outputs are cut together, such as
    all that add to one residual stream or the queries, keys and values of one attention, are
    joined by a line below.

    Args:
      plan: what `oto_jax.prune` or `oto_jax.make_plan` returned.
      zigs: the groups that it was made with.
      ax: where to draw; None makes a new figure.
      unit: what is counted.

    Returns:
      The axes. Where widths differ much, their scale is the square root's.

    Raises:
      PlotError: if ``zigs`` name no layers.
      ZIGMismatchError: if the plan was made with other ZIGs.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> from matplotlib.figure import Figure
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 0.0, 8.0]]), "b": jnp.ones((3, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> ax = layers(oto_jax.make_plan(params, zigs), zigs, ax=Figure().add_subplot())
      >>> [text.get_text() for text in ax.texts]
      ['3 → 2', '2']
    """
    rows = _rows(plan.plan if isinstance(plan, Pruned) else plan, zigs)
    if ax is None:
        size = _type_size(len(rows), 0.88 * WIDTH)
        longest = max(len(row.name) for row in rows)
        ax = axes_or_new(None, PANEL + 0.6 + longest * LETTER * max(size, SMALLEST) / 72)
        panel = PANEL
    else:
        width, panel = (ax.bbox.transformed(ax.figure.dpi_scale_trans.inverted())).size
        size = _type_size(len(rows), width)
    rails = _rails(rows)
    _bars(ax, rows)
    _scale(ax, rows, max((level for _, level in rails), default=-1) + 1, size, panel)
    for number, (places, level) in enumerate(rails):
        _rail(ax, rows, places, level, SHARED[number % len(SHARED)])
    _write(ax, rows, size)
    ax.set_ylabel(unit if ax.get_yscale() == "linear" else f"{unit} (square-root scale)")
    ax.set_title("Layers from input to output, and what is kept of them", pad=24)
    _legend(ax, rows, bool(rails))
    return ax


def _rows(plan: Plan, zigs: ZIGs) -> list[Row]:
    if not zigs.layers:
        raise PlotError(
            "the ZIGs name no layers: none of the parameters is a kernel or a table, or they were"
            " not made by oto_jax.find_zigs"
        )
    spaces: dict[tuple[Path, int], list[int]] = {}
    for number, space in enumerate(zigs.spaces):
        for member in space.axes:
            spaces.setdefault((member.path, member.axis), []).append(number)
    arrays = plan.by_path
    names = _names([layer.path[len(zigs.prefix) :] for layer in zigs.layers])
    return [
        _row(name, layer, _array(arrays, layer), spaces)
        for name, layer in zip(names, zigs.layers, strict=True)
    ]


def _array(arrays: Mapping[Path, ArrayPlan], layer: Layer) -> ArrayPlan:
    array = arrays.get(layer.path)
    if array is None or len(array.shape) <= max(layer.axes):
        raise ZIGMismatchError(
            f"the plan has no {format_path(layer.path)!r} as in the ZIGs: give the ZIGs that it was"
            " made with"
        )
    return array


def _row(
    name: str, layer: Layer, array: ArrayPlan, spaces: Mapping[tuple[Path, int], Sequence[int]]
) -> Row:
    full, kept = (
        math.prod(shape[axis] for axis in layer.axes) for shape in (array.shape, array.slim_shape)
    )
    found = (number for axis in layer.axes for number in spaces.get((layer.path, axis), ()))
    return Row(name, full, kept, tuple(dict.fromkeys(found)))


def _names(paths: Sequence[Path]) -> list[str]:
    """Modules, where these say enough; else parameters.

    Example:
      >>> _names([("a", "kernel"), ("b", "kernel")]), _names([("a", "up"), ("a", "down")])
      (['a', 'b'], ['a/up', 'a/down'])
    """
    modules = [format_path(path[:-1]) for path in paths]
    if len(set(modules)) == len(set(paths)) and all(modules):
        return modules
    return [format_path(path) for path in paths]


def _type_size(columns: int, width: float) -> float:
    """Points of type that fits in columns of a picture of so many inches."""
    return min(LARGEST, 0.85 * 72 * width / columns)


def _bars(ax: Axes, rows: Sequence[Row]) -> None:
    places = np.arange(len(rows))
    ax.bar(places, [row.full for row in rows], 0.86, color=FULL, label="full")
    colours = [KEPT if row.spaces else FIXED for row in rows]
    ax.bar(places, [row.kept for row in rows], 0.56, color=colours, label="kept")


def _rails(rows: Sequence[Row]) -> list[tuple[list[int], int]]:
    """Layers that share a space, and for each such line a level that keeps lines apart."""
    numbers: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        for space in row.spaces:
            numbers.setdefault(space, []).append(place)
    ends: list[int] = []  # where the last line on each level ends
    found = []
    for places in sorted(places for places in numbers.values() if len(places) > 1):
        level = next((k for k, end in enumerate(ends) if end < places[0]), len(ends))
        ends[level : level + 1] = [places[-1]]
        found.append((places, level))
    return found


def _scale(ax: Axes, rows: Sequence[Row], levels: int, size: float, panel: float) -> None:
    """Room for numbers above and lines below; ticks at the widths that there are."""
    widths = sorted({row.full for row in rows})
    if widths[-1] >= WIDE * max(widths[0], 1):
        ax.set_yscale("function", functions=(_root, _square))
    written = LETTER * size * max(len(_number(row)) for row in rows) + 6
    # A part of the whole height; all else is told in heights of the highest bar.
    above = written / (72 * panel) if size >= SMALLEST else 0.03
    below = LEVEL * (levels + 0.3)
    highest = 1 + (1 + below) * above / (1 - above)
    ax.set_ylim(_at(ax, -below, widths[-1]), _at(ax, highest, widths[-1]))
    ticks = [0]
    for width in widths:
        if _height(ax, width, widths[-1]) - _height(ax, ticks[-1], widths[-1]) >= 0.09:
            ticks.append(width)
    ax.set_yticks(ticks, [str(tick) for tick in ticks], fontsize="small")
    ax.set_yticks([], minor=True)
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)


def _root(values: np.ndarray) -> np.ndarray:
    """The square root, going on below zero, where the lines are."""
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.square(values)


def _height(ax: Axes, width: float, widest: int) -> float:
    """How high a bar of that width is, in heights of the highest."""
    return width / widest if ax.get_yscale() == "linear" else float(np.sqrt(width / widest))


def _at(ax: Axes, height: float, widest: int) -> float:
    """The width at a height; the inverse of `_height`, negative below zero."""
    return widest * float(height if ax.get_yscale() == "linear" else _square(np.asarray(height)))


def _rail(ax: Axes, rows: Sequence[Row], places: Sequence[int], level: int, colour: str) -> None:
    """A line below the bars, with a dot under each layer that has the width."""
    y = _at(ax, -LEVEL * (level + 0.8), max(row.full for row in rows))
    ax.plot(places, [y] * len(places), color=colour, marker="o", markersize=4, linewidth=1.5)


def _number(row: Row) -> str:
    return f"{row.full} → {row.kept}" if row.spaces else f"{row.full}"


def _write(ax: Axes, rows: Sequence[Row], size: float) -> None:
    """Names below and numbers above, as far as there is room."""
    legible = size >= SMALLEST
    shown = range(0, len(rows), 1 if legible else math.ceil(SMALLEST / size))
    ax.set_xticks(shown, [rows[k].name for k in shown], rotation=90, fontsize=max(size, SMALLEST))
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.7, len(rows) - 0.3)
    for place, row in enumerate(rows) if legible else ():
        ax.annotate(
            _number(row),
            (place, row.full),
            xytext=(0, 2),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=size,
        )


def _legend(ax: Axes, rows: Sequence[Row], shared: bool) -> None:
    ax.legend(
        handles=list(_handles(rows, shared)),
        ncols=4,
        fontsize="small",
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        borderaxespad=0.2,
    )


def _handles(rows: Sequence[Row], shared: bool) -> Iterator[Patch | Line2D]:
    yield Patch(color=FULL, label="full")
    yield Patch(color=KEPT, label="kept")
    if not all(row.spaces for row in rows):
        yield Patch(color=FIXED, label="cannot be cut")
    if shared:
        yield Line2D([], [], color="0.4", marker="o", markersize=4, label="cut together")
