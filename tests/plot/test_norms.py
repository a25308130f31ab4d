"""Histograms, curves and maps show exactly the norms that the groups have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

import oto_jax
from oto_jax import plot
from oto_jax.plot.canvas import CUT, log_ticks

GROUPS = st.sets(st.integers(0, 14))


@given(groups=GROUPS)
def test_norms_are_those_of_the_groups_entries(full, zigs, zeroed, groups):
    params = zeroed(groups)
    norms = plot.measure_norms(params, zigs)
    for group in range(zigs.num_groups):
        chosen = jax.tree.map(
            lambda array, mask: np.where(mask, array, 0.0), params, zigs.mask(group)
        )
        expected = np.sqrt(sum(np.square(x, dtype=float).sum() for x in jax.tree.leaves(chosen)))
        np.testing.assert_allclose(norms[group], expected, rtol=1e-12)


def test_the_smallest_number_is_not_zero(full, zigs, zeroed):
    """Its square is below the smallest float32, and float64's too for an array of float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), zeroed(range(15)))
        params["a"][0, 2] = 1e-300
        norms = plot.measure_norms(params, zigs)
    assert np.flatnonzero(norms).tolist() == [2]


@given(groups=GROUPS, bins=st.integers(1, 60))
def test_every_group_is_counted_once(zigs, zeroed, groups, bins):
    params = zeroed(groups)
    found = plot.count_norms(params, zigs, bins)
    sparsity = oto_jax.group_sparsity(params, zigs)
    sizes = [space.size for space in zigs.spaces]
    assert (found.counts.sum(1) + found.zeros).tolist() == sizes
    assert found.zeros.sum() == int(sparsity.zero_groups)
    for name, zeros, size in zip(found.names, found.zeros, sizes, strict=True):
        assert zeros == pytest.approx(size * float(sparsity.per_space[name]))


@given(groups=GROUPS)
def test_bars_are_as_high_as_the_counts(zigs, zeroed, groups):
    from matplotlib.figure import Figure

    params = zeroed(groups)
    found = plot.count_norms(params, zigs, 10)
    drawn = plot.histogram(params, zigs, bins=10, ax=Figure().add_subplot()).containers
    bars = {bar.get_label(): np.array([patch.get_height() for patch in bar]) for bar in drawn}
    for name, counts, zeros in zip(found.names, found.counts, found.zeros, strict=True):
        highest = max(1, counts.max())
        np.testing.assert_allclose(bars[name] * highest, 0.85 * counts)
        size = counts.sum() + zeros
        np.testing.assert_allclose(bars[f"zero {name}"] * size, [0.85 * zeros])


def test_zeros_stand_left_of_every_bin(ax, zigs, zeroed):
    plot.histogram(zeroed([0, 7]), zigs, ax=ax)
    bars = {bar.get_label(): bar.patches for bar in ax.containers}
    for name in (space.name for space in zigs.spaces):
        (zero,) = bars[f"zero {name}"]
        assert zero.get_x() + zero.get_width() < bars[name][0].get_x()
        assert to_hex(zero.get_facecolor()).upper() == CUT


def test_a_histogram_where_all_groups_are_zero(ax, zigs, zeroed):
    plot.histogram(zeroed(range(15)), zigs, ax=ax)
    ax.figure.draw_without_rendering()


def test_no_groups_or_bins_are_named(full, zigs):
    with pytest.raises(oto_jax.PlotError, match="0 bins"):
        plot.count_norms(full, zigs, 0)


def history(zigs, zeroed):
    return [plot.measure_norms(zeroed(range(k)), zigs) for k in (0, 3, 8)]


def test_curves_end_where_groups_die(ax, zigs, zeroed):
    plot.norm_curves([0, 1, 2], history(zigs, zeroed), ax=ax, stage_switch=0.5)
    curves = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 3]
    alive = sorted(int(np.isfinite(curve).sum()) for curve in curves)
    assert alive == [1] * 3 + [2] * 5 + [3] * 7
    assert {"exactly zero: 8", "kept: 7"} <= {text.get_text() for text in ax.get_legend().texts}


def test_map_holds_each_norm_once_and_hides_zeros(ax, zigs, zeroed):
    rows = history(zigs, zeroed)
    plot.norm_map([0, 10, 40], rows, zigs, ax=ax, unit="epoch")
    (mesh,) = ax.collections
    shown = mesh.get_array()
    assert shown.shape == (15, 3)
    assert np.ma.count_masked(shown) == sum(int((row == 0).sum()) for row in rows)
    for column, row in zip(shown.T, rows, strict=True):
        np.testing.assert_array_equal(np.sort(column.compressed()), np.sort(row[row > 0]))
    first, second = zigs.spaces
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{first.name} ({first.size})",
        f"{second.name} ({second.size})",
    ]
    assert ax.get_xlabel() == "epoch"


def test_map_puts_the_first_space_on_top(ax):
    plot.norm_map([0, 1], [[1.0, 2.0, 3.0], [1.0, 0.0, 3.0]], {"a": 2, "b": 1}, ax=ax)
    (mesh,) = ax.collections
    assert mesh.get_array()[:, 0].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    "draw", [plot.norm_curves, lambda s, n, ax: plot.norm_map(s, n, {"a": 2}, ax=ax)]
)
@pytest.mark.parametrize(
    ("steps", "norms", "words"),
    [
        ([0, 1], [[1.0, 2.0]], "2 steps, 1 rows_of_norms"),
        ([], [], "0 steps"),
        ([0], [[1.0, jnp.nan]], "NaN"),
        ([0], [[1.0, -1.0]], "negative"),
        ([0], [1.0], "shape"),
        ([0, 1], [[1.0, 2.0], [1.0]], "hold from 1 to 2 groups"),
    ],
)
def test_bad_norms_are_named(ax, draw, steps, norms, words):
    with pytest.raises(oto_jax.PlotError, match=words):
        draw(steps, norms, ax=ax)


def test_spaces_of_other_norms_are_named(ax):
    with pytest.raises(oto_jax.PlotError, match="hold 3 groups, the norms are of 2"):
        plot.norm_map([0], [[1.0, 2.0]], {"a": 3}, ax=ax)


@given(st.floats(1e-12, 1e6), st.floats(1.001, 1e12))
def test_ticks_lie_within(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert len(ticks) <= 14
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert len(ticks) >= 3 or ratio < 4
