"""The demo's picture, from its result file; and how pictures are written.

``python experiments/plots.py`` draws it again without running anything.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; works where there is no screen

import matplotlib.pyplot as plt
import tyro
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.results import read_results, write_whole
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
    content = io.BytesIO()
    kind = path.suffix[1:] or "png"
    figure.savefig(content, format=kind, dpi=100)
    plt.close(figure)
    write_whole(path, in_few_colours(content.getvalue()) if kind == "png" else content.getvalue())


def in_few_colours(png: bytes) -> bytes:
    """The picture with a palette of 64 colours: a third of the size, nearly the same to see."""
    written = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(64, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(written, format="png", optimize=True)
    return written.getvalue()


def main(config: Config) -> None:
    """Reads the results, writes the picture."""
    save_figure(draw_digits(read_results(config.results)), config.picture)
    print(f"wrote {config.picture}")


if __name__ == "__main__":
    main(tyro.cli(Config))
