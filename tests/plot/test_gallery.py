"""The documentation's pictures are drawn from a result file, and say what it says."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.plots import draw_gallery
from experiments.results import read_results


@pytest.fixture
def results(root):
    return read_results(root / "results" / "digits.json")


@pytest.fixture
def gallery(results):
    """Axes by name; their figures are closed afterwards."""
    found = draw_gallery(results)
    yield found
    for ax in found.values():
        plt.close(ax.figure)


def test_every_picture_is_kept(gallery, root):
    kept = {path.stem for path in (root / "docs" / "images").glob("plot_*.png")}
    assert {f"plot_{name}" for name in gallery} <= kept


def test_figures_are_those_of_the_file(gallery, results):
    widths = [f"{row['before']} → {row['after']}" for row in results["widths"]]
    assert [text.get_text() for text in gallery["widths"].texts] == widths
    dense, slim = results["dense"], results["slim"]
    share = 100 * slim["parameters"] / dense["parameters"]
    assert gallery["costs"].containers[1][0].get_width() == pytest.approx(share)
    last = np.array(results["history"]["group_norms"][-1])
    (overall,) = [line for line in gallery["sparsity"].lines if line.get_label() == "overall"]
    assert overall.get_ydata()[-1] == pytest.approx(100 * np.mean(last == 0))
