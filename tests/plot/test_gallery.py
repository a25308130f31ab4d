"""The documentation's pictures are drawn from real results, and say what these say."""

import io
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from experiments.gallery import SOURCES, Config, Picture, draw_gallery
from experiments.plots import save_figure
from experiments.results import read_results
from oto_jax import plot

DEMO = ("norm_map", "norm_curves", "sparsity", "widths", "costs", "trade_off")
FEW = 60_000  # bytes


@pytest.fixture
def config(root):
    """Draws what needs result files only."""
    return Config(
        demo=root / "results" / "digits.json",
        study=root / "results" / "target_mode.json",
        only=DEMO,
    )


@pytest.fixture
def gallery(config):
    """Axes by name; their figures are closed afterwards."""
    found = draw_gallery(config)
    yield found
    for ax in found.values():
        plt.close(ax.figure)


def test_every_plot_function_has_its_picture_in_the_docs(root):
    functions = {name for name in plot.__all__ if name[0].islower()}
    drawn = functions - {"count_norms", "measure_norms"}
    assert drawn == {name for names in SOURCES.values() for name in names}
    assert drawn == set(Picture.__args__)
    kept = {path.name: path for path in (root / "docs" / "images").glob("plot_*.png")}
    assert set(kept) == {f"plot_{name}.png" for name in drawn}
    for path in kept.values():
        assert path.stat().st_size < FEW, path
        with Image.open(path) as picture:
            assert picture.width == 800, path


def test_figures_are_those_of_the_files(gallery, config):
    results = read_results(config.demo)
    widths = [f"{row['before']} → {row['after']}" for row in results["widths"]]
    assert [text.get_text() for text in gallery["widths"].texts] == widths
    full, slim = results["full"], results["slim"]
    share = 100 * slim["parameters"] / full["parameters"]
    assert gallery["costs"].containers[1][0].get_width() == pytest.approx(share)
    last = np.array(results["history"]["group_norms"][-1])
    (overall,) = [line for line in gallery["sparsity"].lines if line.get_label() == "overall"]
    assert overall.get_ydata()[-1] == pytest.approx(100 * np.mean(last == 0))
    rows = read_results(config.study)["rows"]
    best = [r["accuracy"] for r in rows if r["way"] == "default" and r["kept"] == 0.1]
    (line,) = [line for line in gallery["trade_off"].lines if line.get_label() == "target mode"]
    assert dict(line.get_xydata().tolist())[10] == pytest.approx(100 * np.mean(best))


def test_only_what_is_asked_for_is_drawn(config, tmp_path, root):
    command = [sys.executable, "experiments/gallery.py", "--only", "costs"]
    command += ["--folder", str(tmp_path), "--demo", str(config.demo)]
    subprocess.run(command, cwd=root, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["plot_costs.png"]
    unknown = subprocess.run(
        [*command[:3], "nothing"], cwd=root, capture_output=True, text=True, check=False
    )
    assert unknown.returncode
    assert "nothing" in unknown.stdout + unknown.stderr


def test_a_small_file_looks_like_the_figure(gallery, tmp_path):
    figure = gallery["costs"].figure
    full = io.BytesIO()
    figure.savefig(full, format="png", dpi=100)
    save_figure(figure, tmp_path / "few.png")
    pictures = [
        np.asarray(Image.open(place).convert("RGB"), float)
        for place in (full, tmp_path / "few.png")
    ]
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).max() < 32
    assert (tmp_path / "few.png").stat().st_size < len(full.getvalue()) / 2
