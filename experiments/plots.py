"""Pictures from result files, so that they can be drawn again without running anything.

``python experiments/plots.py results/digits.json docs/images/digits.png``
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; works where there is no screen

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.results import read_results
from oto_jax import plot


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
    plot.norm_curves(
        history["epochs"],
        history["group_norms"],
        ax=left,
        stage_switch=history["stage_switch"],
        unit="epoch",
    )
    plot.widths(results["widths"], ax=right, unit="channels")
    return figure


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
