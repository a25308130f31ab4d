"""The diagram of layers shows each layer's widths, in order, and which are cut together."""

import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import oto_jax
from oto_jax import plot
from oto_jax.models.resnet import ResNet50_CIFAR
from oto_jax.plot.canvas import KEPT
from oto_jax.plot.layers import FIXED
from oto_jax.prune.plan import plan_of_units
from tests.plot.conftest import network


def drawn(ax):
    """Full and kept width of each bar, and its label."""
    full, kept = ([bar.get_height() for bar in bars] for bars in ax.containers)
    names = [label.get_text() for label in ax.get_xticklabels()]
    return list(zip(names, full, kept, strict=True))


@given(groups=st.sets(st.integers(0, 14)))
def test_bars_are_the_widths_of_the_plan(full, zigs, zeroed, groups):
    plan = oto_jax.make_plan(zeroed(groups), zigs)
    ax = plot.layers(plan, zigs, ax=Figure().add_subplot())
    first, second = (space.units.count for space in plan.spaces)
    assert drawn(ax) == [("a", 6, first), ("b", 9, second), ("c", 2, 2)]
    assert [text.get_text() for text in ax.texts] == [f"6 → {first}", f"9 → {second}", "2"]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in ax.containers[1]]
    assert colours == [KEPT, KEPT, FIXED]


def residual(params, x):
    """Names in the wrong order; `z`, `b` and `a` add to one stream."""
    stream = jnp.maximum(x @ params["z"], 0)
    for inner, outer in (("y", "b"), ("c", "a")):
        stream += jnp.maximum(stream @ params[inner], 0) @ params[outer]
    return jnp.maximum(stream, 0) @ params["head"]


def test_a_line_joins_what_is_cut_together():
    sizes = {"z": (4, 6), "y": (6, 8), "b": (8, 6), "c": (6, 5), "a": (5, 6), "head": (6, 2)}
    params = {name: jnp.ones(size) for name, size in sizes.items()}
    for name in "zba":
        params[name] = params[name].at[:, 2].set(0)
    zigs = oto_jax.find_zigs(residual, params, jnp.ones((1, 4)))
    ax = plot.layers(oto_jax.make_plan(params, zigs), zigs, ax=Figure().add_subplot())
    assert [name for name, *_ in drawn(ax)] == ["z", "y", "b", "c", "a", "head"]
    assert [kept for *_, kept in drawn(ax)] == [5, 8, 5, 5, 5, 2]
    (line,) = [line for line in ax.lines if line.get_marker() == "o"]
    assert list(line.get_xdata()) == [0, 2, 4]
    assert (np.asarray(line.get_ydata()) < 0).all()


def test_heads_count_with_their_dimensions(bert_plan_and_zigs):
    plan, zigs = bert_plan_and_zigs
    ax = plot.layers(plan, zigs, ax=Figure(figsize=(12, 5)).add_subplot())
    widths = {name: (full, kept) for name, full, kept in drawn(ax)}
    assert widths["layer_0/attention/query"] == (8, 6)
    assert widths["layer_0/ffn/intermediate"] == (20, 20)
    lines = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert lines == [[1, 2, 3]]


@pytest.fixture(scope="module")
def bert_plan_and_zigs():
    """A layer of 4 heads of 2, of which one is zero, and 20 units."""
    from oto_jax.models.bert import BertEncoder
    from oto_jax.models.bert_config import BertConfig

    config = BertConfig.uniform(depth=1, hidden=8, heads=4, ffn=20, vocabulary=30)
    model, ids = BertEncoder(config), jax.ShapeDtypeStruct((1, 5), "int32")
    variables = jax.eval_shape(model.init, jax.random.key(0), ids)
    zigs = oto_jax.find_zigs(model, variables, ids)
    heads = next(space.name for space in zigs.spaces if "attention" in space.name)
    return plan_of_units(variables, zigs, {heads: [0, 1, 3]}), zigs


@pytest.fixture(scope="module")
def resnet50():
    """The plan of a ResNet-50 that keeps a third of each space."""
    model, image = ResNet50_CIFAR(), jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    zigs = oto_jax.find_zigs(model, variables, image)
    kept = {space.name: range(space.size // 3) for space in zigs.spaces}
    return plan_of_units(variables, zigs, kept), zigs


def test_a_resnet50_is_legible_and_its_labels_do_not_touch(resnet50):
    ax = plot.layers(*resnet50)
    figure = ax.figure
    try:
        assert figure.get_figwidth() * 100 == 800
        figure.draw_without_rendering()
        labels = ax.get_xticklabels()
        assert len(labels) == len(ax.texts) == 54
        assert min(text.get_fontsize() for text in (*labels, *ax.texts)) >= 6
        for texts in (labels, ax.texts):
            boxes = [text.get_window_extent() for text in texts]
            assert all(a.x1 <= b.x0 + 0.5 for a, b in itertools.pairwise(boxes))
        # Numbers stay below the legend, lines above the names.
        top = max(text.get_window_extent().y1 for text in ax.texts)
        assert top <= ax.bbox.y1 + 1
        rails = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(rails) == 4
        assert min(line.get_window_extent().y0 for line in rails) >= ax.bbox.y0
        assert "square-root" in ax.get_ylabel()
    finally:
        plt.close(figure)


def test_bars_keep_their_heights_on_the_square_root_scale(ax, resnet50):
    plot.layers(*resnet50, ax=ax)
    bars = ax.containers[0]
    heights = [
        ax.transData.transform((0, b.get_height()))[1] - b.get_window_extent().y0 for b in bars
    ]
    zero = ax.transData.transform((0, 0))[1]
    widest = max(bar.get_height() for bar in bars)
    pixels = ax.transData.transform((0, widest))[1] - zero
    for bar, height in zip(bars, heights, strict=True):
        assert height == pytest.approx(pixels * np.sqrt(bar.get_height() / widest))


def test_other_zigs_and_zigs_without_layers_are_named(ax, full, zigs, zeroed, resnet50):
    plan = oto_jax.make_plan(full, zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="stem_conv/kernel"):
        plot.layers(plan, resnet50[1], ax=ax)
    scale = oto_jax.find_zigs(lambda p, x: x * p["s"], {"s": jnp.ones((1, 4))}, jnp.ones((1, 4)))
    with pytest.raises(oto_jax.PlotError, match="no layers"):
        plot.layers(plan, scale, ax=ax)


def test_the_order_is_that_of_the_network(full, zigs):
    assert [layer.path for layer in zigs.layers] == [("a",), ("b",), ("c",)]
    assert network(full, jnp.ones((1, 4))).shape == (1, 2)
