"""Sparsity, widths, units, costs and trade-offs: what is drawn is what was given."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import oto_jax
from oto_jax import plot
from oto_jax.models.bert import BertEncoder
from oto_jax.models.bert_config import BertConfig
from tests.plot.conftest import network


@pytest.fixture
def plan(zigs, zeroed):
    """Keeps 4 of 6 and 8 of 9 units."""
    return oto_jax.make_plan(zeroed([0, 3, 14]), zigs)


def labels(ax):
    return [text.get_text() for text in ax.texts]


def test_sparsity_draws_each_space_and_the_whole(ax, zigs, zeroed):
    history = [oto_jax.group_sparsity(zeroed(range(k)), zigs) for k in (0, 3, 8)]
    plot.sparsity([0, 5, 10], history, ax=ax, stage_switch=5)
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert drawn["overall"] == pytest.approx([0, 20, 100 * 8 / 15])
    for space in zigs.spaces:
        expected = [100 * float(row.per_space[space.name]) for row in history]
        assert drawn[space.name] == pytest.approx(expected)
    assert list(ax.get_lines()[-1].get_xdata()) == [5, 5]


def test_many_spaces_get_a_short_legend(ax):
    plot.sparsity([0, 1], {f"space{i}": [0.0, i / 40] for i in range(40)}, ax=ax)
    assert len([line for line in ax.lines if line.get_label().startswith("space")]) == 40
    assert [text.get_text() for text in ax.get_legend().texts] == ["first: space0", "last: space39"]


@pytest.mark.parametrize(
    ("steps", "history", "words"),
    [
        ([0, 1], {"a": [0.5]}, "2 steps, 1 a"),
        ([0], {"a": [50.0]}, "shares, not percents"),
        ([], [], "no history"),
        ([], {}, "0 steps"),
        ([0], {}, "no spaces"),
    ],
)
def test_bad_histories_are_named(ax, steps, history, words):
    with pytest.raises(oto_jax.PlotError, match=words):
        plot.sparsity(steps, history, ax=ax)


def test_widths_are_those_of_the_plan(ax, plan):
    plot.widths(plan, ax=ax)
    before, after = ([bar.get_width() for bar in bars] for bars in ax.containers)
    assert (before, after) == ([6, 9], [4, 8])
    assert labels(ax) == ["6 → 4", "9 → 8"]
    rows = [{"name": s.name, "before": s.units.size, "after": s.units.count} for s in plan.spaces]
    other = plot.widths(rows, ax=Figure().add_subplot())
    assert labels(other) == labels(ax)


@pytest.mark.parametrize(
    ("rows", "words"),
    [([], "no spaces"), ([{"name": "conv", "before": 3, "after": 4}], "'conv' is said to keep 4")],
)
def test_impossible_widths_are_named(ax, rows, words):
    with pytest.raises(oto_jax.PlotError, match=words):
        plot.widths(rows, ax=ax)


def test_units_marks_exactly_the_kept(ax, plan):
    plot.units(plan, ax=ax)
    picture = np.asarray(ax.images[0].get_array())
    for row, space in zip(picture, plan.spaces, strict=True):
        blue = row[:, 0] < 0.1
        assert np.flatnonzero(blue).tolist() == space.units.positions.tolist()
        assert (row[space.units.size :] == 1).all()
    assert labels(ax) == ["4 of 6", "8 of 9"]


def test_a_glob_that_matches_nothing_lists_the_spaces(ax, plan):
    with pytest.raises(oto_jax.PlotError, match=plan.spaces[0].name):
        plot.units(plan, "*nothing*", ax=ax)


@pytest.fixture(scope="module")
def bert_plan():
    """Three layers of 4 heads and 20 units; the third head of the second layer is zero."""
    config = BertConfig.uniform(depth=3, hidden=8, heads=4, ffn=20, vocabulary=30)
    model, ids = BertEncoder(config), jnp.ones((1, 5), int)
    variables = jax.jit(model.init)(jax.random.key(0), ids)
    zigs = oto_jax.find_zigs(model, variables, ids)
    space = next(space for space in zigs.spaces if "layer_1/attention" in space.name)

    def clear(array, numbers):
        return jnp.where(numbers == space.start + 2, 0.0, array)

    return oto_jax.make_plan({"params": jax.tree.map(clear, variables["params"], zigs.masks)}, zigs)


def test_transformer_draws_heads_and_units_of_each_layer(bert_plan):
    axes = Figure().subplots(1, 2)
    left, right = plot.transformer(bert_plan, axes=axes)
    assert (left, right) == tuple(axes)
    assert labels(left) == ["4 of 4", "3 of 4", "4 of 4"]
    assert labels(right) == ["20 of 20"] * 3
    layers = ["layer_0", "layer_1", "layer_2"]
    assert [label.get_text() for label in left.get_yticklabels()] == layers
    with pytest.raises(oto_jax.PlotError, match="1 axes were given"):
        plot.transformer(bert_plan, axes=axes[:1])


def test_transformer_makes_one_figure_and_clips_nothing(bert_plan):
    before = plt.get_fignums()
    left, right = plot.transformer(bert_plan)
    figure = left.figure
    try:
        assert right.figure is figure
        assert len(plt.get_fignums()) == len(before) + 1
        figure.draw_without_rendering()
        for ax in (left, right):
            box = ax.get_tightbbox(figure.canvas.get_renderer())
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    finally:
        plt.close(figure)


def test_costs_of_a_certificate(ax, full, zigs, zeroed):
    x = jnp.ones((2, 4))
    params = zeroed([0, 3, 14])
    slim = oto_jax.narrow(network, params, zigs)
    certificate = oto_jax.certify((network, params), slim, x)
    plot.costs(certificate, ax=ax)
    shares = [bar.get_width() for bar in ax.containers[1]]
    full_cost, slim_cost = certificate.full, certificate.slim
    assert shares == pytest.approx(
        [
            100 * slim_cost.parameters / full_cost.parameters,
            100 * slim_cost.macs / full_cost.macs,
        ]
    )
    measured = dataclasses.replace(
        certificate,
        full=dataclasses.replace(full_cost, latency=2e-3),
        slim=dataclasses.replace(slim_cost, latency=1e-3),
    )
    plot.costs(measured, ax=ax)
    assert labels(ax)[-1] == "50.0 %   (2 → 1)"
    assert ax.get_yticklabels()[-1].get_text() == "latency (ms)"


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({}, "nothing"),
        ({"MACs": (0, 1)}, "'MACs'"),
        ({"MACs": (1, float("nan"))}, "'MACs'"),
        ({"MACs": 3}, "'MACs'"),
        ({"MACs": (1, 2, 3)}, "'MACs'"),
    ],
)
def test_impossible_costs_are_named(ax, pairs, words):
    with pytest.raises(oto_jax.PlotError, match=words):
        plot.costs(pairs, ax=ax)


def test_trade_off_orders_each_curve_by_cost(ax):
    curves = {"taylor": [(50, 91.0), (20, 80.0)], "magnitude": [(10, 60.0), (60, 90.0)]}
    plot.trade_off(curves, dense=(100, 92.0), ax=ax)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["taylor"] == [[20, 80], [50, 91]]
    assert drawn["magnitude"] == [[10, 60], [60, 90]]
    assert drawn["dense"] == [[100, 92]]


@pytest.mark.parametrize("low, scale", [(3, "log"), (20, "linear"), (0, "linear")])
def test_costs_far_apart_get_a_log_axis(ax, low, scale):
    plot.trade_off([(low, 80.0), (30, 90.0)], dense=(100, 92.0), ax=ax)
    assert ax.get_xscale() == scale
    assert ("log scale" in ax.get_xlabel()) == (scale == "log")
    ax.figure.draw_without_rendering()
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert (shown == ["3", "10", "30", "100"]) == (scale == "log")
    left, right = ax.get_xlim()
    assert left < low < 100 < right


@pytest.mark.parametrize(
    "points", [{}, [], [(1, float("nan"))], {"a": [(1, 2, 3)]}, [(1, 2), (3,)], [1, 2]]
)
def test_curves_without_points_are_refused(ax, points):
    with pytest.raises(oto_jax.PlotError):
        plot.trade_off(points, ax=ax)
