"""Every plot draws on the axes it is given, returns them, and leaves pyplot alone."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

import oto_jax
from oto_jax import plot

NORMS = [[1.0, 2.0, 0.5], [0.1, 0.0, 0.4]]
DRAW = {
    "costs": lambda net, **ax: plot.costs({"MACs": (2e6, 1e6)}, **ax),
    "histogram": lambda net, **ax: plot.histogram(*net, **ax),
    "layers": lambda net, **ax: plot.layers(oto_jax.make_plan(*net), net[1], **ax),
    "norm_curves": lambda net, **ax: plot.norm_curves([0, 1], NORMS, **ax),
    "norm_map": lambda net, **ax: plot.norm_map([0, 1], NORMS, {"a": 2, "b": 1}, **ax),
    "sparsity": lambda net, **ax: plot.sparsity([0, 1], {"a": [0.0, 0.5]}, **ax),
    "trade_off": lambda net, **ax: plot.trade_off([(50, 90.0)], **ax),
    "units": lambda net, **ax: plot.units(oto_jax.make_plan(*net), **ax),
    "widths": lambda net, **ax: plot.widths(oto_jax.make_plan(*net), **ax),
}


@pytest.fixture
def net(full, zigs):
    return full, zigs


def pyplot_state():
    return plt.get_fignums(), dict(mpl.rcParams), mpl.get_backend()


def test_every_plot_is_tried():
    functions = {name for name in plot.__all__ if name[0].islower()}
    assert functions - {"count_norms", "measure_norms", "transformer"} == set(DRAW)


@pytest.mark.parametrize("name", DRAW)
def test_given_axes_are_used_and_pyplot_is_left_alone(name, net):
    figure = Figure(figsize=(8, 4))
    ax, other = figure.subplots(2)
    before = pyplot_state()
    assert DRAW[name](net, ax=ax) is ax
    assert pyplot_state() == before
    assert ax.has_data()
    assert not other.has_data()


@pytest.mark.parametrize("name", DRAW)
def test_without_axes_one_figure_is_made(name, net):
    before, settings, backend = pyplot_state()
    ax = DRAW[name](net)
    after, settings_after, backend_after = pyplot_state()
    assert len(after) == len(before) + 1
    assert plt.gcf() is ax.figure
    assert (settings, backend) == (settings_after, backend_after)
    plt.close(ax.figure)


@pytest.mark.parametrize("name", DRAW)
def test_nothing_is_clipped_at_the_width_of_a_readme(name, net):
    """All that has been drawn, labels included, lies within the figure."""
    ax = DRAW[name](net)
    figure = ax.figure
    try:
        assert figure.get_figwidth() * 100 == 800
        figure.draw_without_rendering()
        inside = figure.bbox.padded(1)
        box = ax.get_tightbbox(figure.canvas.get_renderer())
        assert inside.x0 <= box.x0 <= box.x1 <= inside.x1
        assert inside.y0 <= box.y0 <= box.y1 <= inside.y1
    finally:
        plt.close(figure)
