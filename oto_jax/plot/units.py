"""Which units survived, one by one: the heads and feed-forward units of a transformer."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from oto_jax.errors import PlotError
from oto_jax.plot.canvas import (
    FULL,
    KEPT,
    WIDTH,
    axes_or_new,
    height_of_rows,
    new_axes,
    write_beside,
)
from oto_jax.prune.plan import Plan, SpacePlan
from oto_jax.prune.prune import Pruned

SEPARATE = 64  # Up to so many units in a row, each has a box of its own.


def units(
    plan: Plan | Pruned, spaces: str = "*", *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """A row per space, a mark per unit: blue where it is kept, grey where it was cut.

    Args:
      plan: what `oto_jax.prune` or `oto_jax.make_plan` returned.
      spaces: a glob that the names of the spaces have to match.
      ax: where to draw; None makes a new figure.
      title: of the axes; None gives the glob.

    Returns:
      The axes; beside each row stands how many units are kept of how many.

    Raises:
      PlotError: if no space matches.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> from matplotlib.figure import Figure
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 0.0, 8.0]]), "b": jnp.ones((3, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> ax = units(oto_jax.make_plan(params, zigs), ax=Figure().add_subplot())
      >>> ax.texts[0].get_text()
      '2 of 3'
    """
    rows = _matching(plan, spaces)
    ax = axes_or_new(ax, height_of_rows(len(rows)))
    longest = max(row.units.size for row in rows)
    picture = np.stack([_colours(row, longest) for row in rows])
    # Seen from afar, many thin marks become the mean of their colours: a density.
    extent = (-0.5, longest - 0.5, len(rows) - 0.5, -0.5)
    ax.imshow(picture, aspect="auto", interpolation="antialiased", extent=extent)
    for number, row in enumerate(rows):
        write_beside(ax, f"{row.units.count} of {row.units.size}", longest - 0.5, number)
    _grid(ax, len(rows), longest)
    ax.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
    ax.set(xlabel="number of the unit", title=spaces if title is None else title)
    return ax


def transformer(
    plan: Plan | Pruned,
    *,
    heads: str = "*attention*",
    feed_forward: str = "*ffn*",
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, Axes]:
    """The attention heads and the feed-forward units of a transformer that survived.

    Args:
      plan: what `oto_jax.prune` or `oto_jax.make_plan` returned.
      heads: a glob for the names of the spaces of heads.
      feed_forward: a glob for the names of the spaces of feed-forward units.
      axes: where to draw the heads and the units; None makes a new figure.

    Returns:
      The two axes. Blue is kept, grey is cut.

    Raises:
      PlotError: if a glob matches no space, or ``axes`` are not two.

    Example:
      >>> import jax, oto_jax
      >>> from matplotlib.figure import Figure
      >>> from oto_jax.models.bert import BertEncoder
      >>> from oto_jax.models.bert_config import BertConfig
      >>> config = BertConfig.uniform(depth=1, hidden=8, heads=2, ffn=16, vocabulary=20)
      >>> model, ids = BertEncoder(config), jax.numpy.ones((1, 3), int)
      >>> variables = model.init(jax.random.key(0), ids)
      >>> plan = oto_jax.make_plan(variables, oto_jax.find_zigs(model, variables, ids))
      >>> left, right = transformer(plan, axes=Figure().subplots(1, 2))
      >>> left.texts[0].get_text(), right.texts[0].get_text()
      ('2 of 2', '16 of 16')
    """
    rows = max(len(_matching(plan, heads)), len(_matching(plan, feed_forward)))
    if axes is None:
        axes = new_axes(2, WIDTH, height_of_rows(rows, 0.3), width_ratios=(1, 2.2))
    if len(axes) != 2:
        raise PlotError(f"{len(axes)} axes were given; two are needed, for heads and for units")
    left = units(plan, heads, ax=axes[0], title="Attention heads kept")
    right = units(plan, feed_forward, ax=axes[1], title="Feed-forward units kept")
    names = [_shortened([label.get_text() for label in ax.get_yticklabels()]) for ax in axes]
    left.set_yticks(left.get_yticks(), names[0], fontsize="small")
    # The same layers stand at the left already.
    other = names[1] if names[1] != names[0] else [""] * len(names[1])
    right.set_yticks(right.get_yticks(), other, fontsize="small")
    left.set_xlabel("head")
    right.set_xlabel("unit")
    return left, right


def _matching(plan: Plan | Pruned, spaces: str) -> list[SpacePlan]:
    plan = plan.plan if isinstance(plan, Pruned) else plan
    rows = [row for row in plan.spaces if fnmatch.fnmatchcase(row.name, spaces)]
    if not rows:
        known = ", ".join(row.name for row in plan.spaces)
        raise PlotError(f"no space matches {spaces!r}; the spaces are {known or 'none'}")
    return rows


def _colours(row: SpacePlan, longest: int) -> np.ndarray:
    colours = np.ones((longest, 3))
    colours[: row.units.size] = to_rgb(FULL)
    colours[row.units.positions] = to_rgb(KEPT)
    return colours


def _grid(ax: Axes, rows: int, longest: int) -> None:
    """White lines between rows, and between units where these can be told apart."""
    for number in range(1, rows):
        ax.axhline(number - 0.5, color="white", linewidth=2)
    if longest <= SEPARATE:
        for number in range(1, longest):
            ax.axvline(number - 0.5, color="white", linewidth=1.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[:].set_visible(False)


def _shortened(names: Sequence[str]) -> list[str]:
    """Without the parts of paths that all names share, for panels with little room.

    Example:
      >>> _shortened(["encoder/layer_0/ffn", "encoder/layer_1/ffn"])
      ['layer_0', 'layer_1']
    """
    paths = [name.split("/") for name in names]
    shared = set.intersection(*(set(path) for path in paths)) if len(paths) > 1 else set()
    return ["/".join(part for part in path if part not in shared) or path[-1] for path in paths]
