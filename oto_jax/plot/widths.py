"""Each space of the network: how wide it was and how wide it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from oto_jax.errors import PlotError
from oto_jax.plot.canvas import FULL, KEPT, axes_or_new, height_of_rows, write_beside
from oto_jax.prune.plan import Plan
from oto_jax.prune.prune import Pruned

Widths = Plan | Pruned | Sequence[Mapping[str, Any]]


def widths(
    plan: Widths, *, ax: Axes | None = None, unit: str = "units (channels, heads, ...)"
) -> Axes:
    """A row per space, in the order of the plan: its width before pruning and after.

    A space is the width of one layer, or the one width that several layers share, as those that
    add to one residual stream do.

    Args:
      plan: what `oto_jax.prune` or `oto_jax.make_plan` returned; or rows with ``name``, ``before``
        and ``after``, as in result files.
      ax: where to draw; None makes a new figure.
      unit: what is counted.

    Returns:
      The axes.

    Raises:
      PlotError: if there are no rows, or one keeps more than there was.

    Example:
      >>> from matplotlib.figure import Figure
      >>> rows = [{"name": "conv", "before": 32, "after": 7}]
      >>> widths(rows, ax=Figure().add_subplot()).texts[0].get_text()
      '32 → 7'
    """
    rows = _rows(plan)
    ax = axes_or_new(ax, height_of_rows(len(rows), 0.3))
    places = range(len(rows))
    before = [before for _, before, _ in rows]
    ax.barh(places, before, color=FULL, label="before")
    ax.barh(places, [after for *_, after in rows], color=KEPT, height=0.5, label="after")
    for place, (_, full, slim) in enumerate(rows):
        write_beside(ax, f"{full} → {slim}", full, place)
    ax.set_yticks(places, [name for name, *_ in rows])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.28 * max(before)), xlabel=unit, title="Widths before (grey) and after")
    return ax


def _rows(plan: Widths) -> list[tuple[str, int, int]]:
    plan = plan.plan if isinstance(plan, Pruned) else plan
    if isinstance(plan, Plan):
        rows = [(space.name, space.units.size, space.units.count) for space in plan.spaces]
    else:
        rows = [(str(row["name"]), int(row["before"]), int(row["after"])) for row in plan]
    if not rows:
        raise PlotError("there are no spaces, so there is no width to draw")
    for name, before, after in rows:
        if not 0 <= after <= before:
            raise PlotError(f"{name!r} is said to keep {after} of {before} units")
    return rows
