"""Pictures from result files, so that they can be drawn again without running anything.

``python experiments/plots.py results/digits.json docs/images/digits.png``
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; works where there is no screen

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.results import read_results

# Blue and vermilion of Okabe and Ito's palette, told apart with any colour vision.
KEPT, CUT = "#0072B2", "#D55E00"


@dataclasses.dataclass(frozen=True)
class Config:
    """Draws the picture of a result file.

    Attributes:
      results: a result file of ``experiments/digits.py``.
      picture: where to; the ending chooses the format.
    """

    results: tyro.conf.Positional[Path] = Path("results/digits.json")
    picture: tyro.conf.Positional[Path] = Path("docs/images/digits.png")


def draw_digits(results: Mapping[str, Any]) -> Figure:
    """The demo's picture: group norms over training, and widths before and after."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    history = results["history"]
    draw_group_norms(left, history["epochs"], history["group_norms"], history["stage_switch"])
    draw_widths(right, results["widths"])
    return figure


def draw_group_norms(
    axes: Axes, epochs: Sequence[float], norms: Sequence[Sequence[float]], switch: float
) -> None:
    """One line per group on a log axis; a line ends where its group becomes exactly zero.

    Args:
      axes: where to draw.
      epochs: when the norms were taken, of length ``times``.
      norms: norms of the groups, shape ``(times, groups)``.
      switch: the epoch in which stage 2 begins.
    """
    lines = np.asarray(norms, float)
    dead = lines[-1] == 0
    lines = np.where(lines > 0, lines, np.nan)
    for chosen, colour, outcome in ((dead, CUT, "exactly zero"), (~dead, KEPT, "kept")):
        drawn = axes.plot(epochs, lines[:, chosen], color=colour, alpha=0.35, linewidth=0.7)
        if drawn:
            label = f"{outcome}: {chosen.sum()}"
            axes.plot([], [], color=colour, label=label)  # a legend entry that is not faint
    axes.axvline(switch, color="black", linestyle="--", linewidth=1, label="stage 2 begins")
    axes.set(yscale="log", xlabel="epoch", ylabel="norm of a group", title="Groups over training")
    axes.legend(fontsize="small", loc="lower right")


def draw_widths(axes: Axes, widths: Sequence[Mapping[str, Any]]) -> None:
    """A bar per space: its width before pruning, and what is kept of it.

    Args:
      axes: where to draw.
      widths: rows with ``name``, ``before`` and ``after``.
    """
    names = [row["name"] for row in widths]
    before = [row["before"] for row in widths]
    after = [row["after"] for row in widths]
    axes.barh(names, before, color="0.85", label="before")
    axes.barh(names, after, color=KEPT, height=0.5, label="after")
    for position, row in enumerate(widths):
        text = f" {row['before']} → {row['after']}"
        axes.annotate(text, (row["before"], position), va="center", fontsize="small")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.25 * max(before)), xlabel="channels", title="Widths before and after")
    axes.legend(fontsize="small")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure so that a kill leaves the old picture or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=110)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)


def main(config: Config) -> None:
    """Reads the results, writes the picture."""
    save_figure(draw_digits(read_results(config.results)), config.picture)
    print(f"wrote {config.picture}")


if __name__ == "__main__":
    main(tyro.cli(Config))
