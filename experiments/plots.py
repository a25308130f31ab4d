"""Pictures from result files, so that they can be drawn again without running anything.

``python experiments/plots.py results/digits.json docs/images/digits.png --gallery docs/images``
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
import numpy as np
import tyro
from matplotlib.axes import Axes
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
      gallery: a folder; draws there what `oto_jax.plot` makes of the results, a file per function.
    """

    results: tyro.conf.Positional[Path] = Path("results/digits.json")
    picture: tyro.conf.Positional[Path] = Path("docs/images/digits.png")
    gallery: Path | None = None


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


def draw_gallery(results: Mapping[str, Any]) -> dict[str, Axes]:
    """Axes by the name of each function of `oto_jax.plot` that a result file suffices for."""
    history, sizes = results["history"], {w["name"]: w["before"] for w in results["widths"]}
    norms, times = np.asarray(history["group_norms"]), history["epochs"]
    training: dict[str, Any] = {"stage_switch": history["stage_switch"], "unit": "epoch"}
    return {
        "norm_map": plot.norm_map(times, norms, sizes, **training),
        "sparsity": plot.sparsity(times, zero_shares(norms, sizes), **training),
        "widths": plot.widths(results["widths"], unit="channels"),
        "costs": plot.costs(compared(results)),
    }


def zero_shares(norms: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The share of zero groups at each time, for each space and overall.

    Example:
      >>> zero_shares(np.array([[1.0, 0.0, 2.0]]), {"a": 2, "b": 1})["a"].tolist()
      [0.5]
    """
    zero, ends = norms == 0, np.cumsum(list(sizes.values()))
    parts = np.split(zero, ends[:-1], axis=1)
    shares = {name: part.mean(1) for name, part in zip(sizes, parts, strict=True)}
    return {**shares, "overall": zero.mean(1)}


def compared(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Dense and slim figures of a result file by what they measure."""
    dense, slim = results["dense"], results["slim"]
    pairs = {
        "parameters": (dense["parameters"], slim["parameters"]),
        "MACs": (dense["macs"], slim["macs"]),
    }
    for size, milliseconds in dense["latency_ms"].items():
        pairs[f"latency at batch {size} (ms)"] = (milliseconds, slim["latency_ms"][size])
    return pairs


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
    results = read_results(config.results)
    save_figure(draw_digits(results), config.picture)
    print(f"wrote {config.picture}")
    if config.gallery is not None:
        for name, axes in draw_gallery(results).items():
            figure = axes.get_figure(root=True)
            assert figure is not None  # It was made for the axes.
            save_figure(figure, config.gallery / f"plot_{name}.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
