"""The slim model's groups are the full model's that stay, in order."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

import oto_jax
from oto_jax.prune.plan import plan_of_units
from oto_jax.prune.slicing import slice_array
from oto_jax.zigs.partition import Member, Run
from tests.prune.hand_made import flattened, plain, zigs_of


@st.composite
def layouts(draw):
    """A model whose spaces run along axes in every regular way, and units to keep."""
    a, b = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    places = draw(st.integers(1, 3))
    params = {
        "a": np.ones((2, a)),
        "b": np.ones((b, 2)),
        "both": np.ones((a + b, 2)),
        "twice": np.ones((2, 2 * a)),
        "flat": np.ones((places * b, 2)),
        "grid": np.ones((2, a * b)),
    }
    first = [plain(("a",), 1, a)]
    second = [plain(("b",), 0, b)]
    along_a = [
        Member(("both",), 0, (Run(0, (a,), (1,), 0),)),
        Member(("twice",), 1, (Run(0, (a,), (1,), 0), Run(a, (a,), (1,), 0))),
        Member(("grid",), 1, (Run(0, (a, b), (b, 1), 0),)),
    ]
    along_b = [
        Member(("both",), 0, (Run(a, (b,), (1,), 0),)),
        flattened(("flat",), 0, places, b),
        Member(("grid",), 1, (Run(0, (a, b), (b, 1), 1),)),
    ]
    zigs = zigs_of(params, [("a", a, first, along_a), ("b", b, second, along_b)])
    kept = {
        name: sorted(draw(st.sets(st.integers(0, size - 1), min_size=1)))
        for name, size in (("a", a), ("b", b))
    }
    return params, zigs, kept


@given(layouts())
def test_every_surviving_position_keeps_its_unit(layout):
    """Number the units, slice the numbers: the slim runs say the same, renumbered in order."""
    params, zigs, kept = layout
    plan = plan_of_units(params, zigs, kept)
    slim = oto_jax.shrink_zigs(zigs, plan)
    for full_space, slim_space in zip(zigs.spaces, slim.spaces, strict=True):
        renumber = np.full(full_space.size + 1, -1)
        renumber[kept[full_space.name]] = np.arange(len(kept[full_space.name]))
        assert slim_space.size == len(kept[full_space.name])
        for full, thin in zip(full_space.axes, slim_space.axes, strict=True):
            array = plan.by_path[full.path]
            numbers = full.unit_of_position(array.shape[full.axis])
            shape = [1] * len(array.shape)
            shape[full.axis] = -1
            spread = np.broadcast_to(numbers.reshape(shape), array.shape)
            sliced = np.moveaxis(slice_array(spread, array), full.axis, 0)[:, 0]
            size = array.slim_shape[full.axis]
            assert renumber[sliced].tolist() == thin.unit_of_position(size).tolist()


@given(layouts())
def test_slim_masks_fit_the_slim_parameters(layout):
    params, zigs, kept = layout
    slim = oto_jax.shrink_zigs(zigs, plan_of_units(params, zigs, kept))
    assert slim.num_groups == sum(map(len, kept.values()))
    assert [space.start for space in slim.spaces] == [0, len(kept["a"])]
    for leaf, mask in zip(slim.parameters, jax.tree.leaves(slim.masks), strict=True):
        assert np.broadcast_shapes(mask.shape, leaf.shape) == leaf.shape


def test_what_is_no_regular_run_is_an_error():
    """Two interleaved spaces, of which one loses a unit."""
    params = {"a": np.ones(3), "b": np.ones(3), "mixed": np.ones(6)}
    even = Member(("mixed",), 0, (Run(0, (3,), (2,), 0),))
    odd = Member(("mixed",), 0, (Run(1, (3,), (2,), 0),))
    zigs = zigs_of(
        params, [("a", 3, [plain(("a",), 0, 3)], [even]), ("b", 3, [plain(("b",), 0, 3)], [odd])]
    )
    with pytest.raises(oto_jax.ZIGMismatchError, match="'mixed'"):
        oto_jax.shrink_zigs(zigs, plan_of_units(params, zigs, {"a": [0, 2]}))
