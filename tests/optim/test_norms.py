"""Laws of the reductions over groups, against brute force through `ZIGs.masks`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.optim import norms
from oto_jax.zigs.partition import Run, leaves_by_path
from tests.optim.handmade import handmade_zigs
from tests.optim.trees import TREES, attention_tree, random_like

pytestmark = pytest.mark.usefixtures("every_size")


@st.composite
def axes(draw):
    """An axis as consecutive pieces: gaps, and runs of one to three dimensions in any order."""
    runs, offset = [], 0
    for _ in range(draw(st.integers(1, 3))):
        offset += draw(st.integers(0, 2))
        shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        order = draw(st.permutations(range(len(shape))))
        stretch = draw(st.sampled_from([1, 1, 2]))
        strides, stride = [0] * len(shape), stretch
        for dim in reversed(order):
            strides[dim], stride = stride, stride * shape[dim]
        unit_dim = draw(st.integers(0, len(shape) - 1))
        runs.append(Run(offset, shape, tuple(strides), unit_dim))
        offset += stride
    return runs, offset + draw(st.integers(0, 2))


@st.composite
def trees(draw):
    """Random parameters, each with runs along one axis; runs of one size may share a space."""
    params, members, by_size = {}, {}, {}
    for i in range(draw(st.integers(1, 3))):
        runs, size = draw(axes())
        others = draw(st.lists(st.integers(1, 3), max_size=3))
        axis = draw(st.integers(0, len(others)))
        params[f"p{i}"] = jnp.zeros((*others[:axis], size, *others[axis:]))
        for run in runs:
            name = f"s{len(members)}"
            if draw(st.booleans()):
                name = by_size.setdefault(run.units, name)
            members.setdefault(name, []).append((f"p{i}", axis, (run,)))
    zigs = handmade_zigs(params, members)
    return random_like(params, draw(st.integers(0, 99))), zigs


def sums_by_brute_force(zigs, entries):
    sums = np.zeros(zigs.num_groups)
    masks = leaves_by_path(zigs.masks)
    for path, x in entries.items():
        numbers = masks[path]
        whole = np.broadcast_to(numbers, x.shape)
        np.add.at(sums, whole[whole >= 0], np.asarray(x, np.float64)[whole >= 0])
    return {space.name: sums[list(space.groups)] for space in zigs.spaces}


@given(trees())
def test_inner_products_equal_brute_force(tree):
    params, zigs = tree
    other = norms.grouped_leaves(zigs, random_like(params, 7))
    leaves = norms.grouped_leaves(zigs, params)
    expected = sums_by_brute_force(zigs, {path: leaves[path] * other[path] for path in leaves})
    products = norms.inner_products(zigs, leaves, other)
    for name, product in products.items():
        np.testing.assert_allclose(product, expected[name], rtol=2e-5, atol=2e-5)


@given(trees())
def test_spread_puts_each_number_on_its_group(tree):
    params, zigs = tree
    vectors = {s.name: jnp.asarray(list(s.groups), jnp.float32) for s in zigs.spaces}
    masks = leaves_by_path(zigs.masks)
    for path, leaf in norms.grouped_leaves(zigs, params).items():
        laid = norms.spread(zigs, vectors, path, leaf.shape, -1.0)
        np.testing.assert_array_equal(laid, masks[path])


@pytest.mark.parametrize("name", TREES)
def test_hand_made_trees_equal_brute_force_in_float64(name):
    with jax.enable_x64(True):
        params, zigs = TREES[name]()
        leaves = norms.grouped_leaves(zigs, params)
        expected = sums_by_brute_force(zigs, {path: x * x for path, x in leaves.items()})
        for space, norm in norms.squared_norms(zigs, leaves).items():
            assert norm.dtype == jnp.float64
            np.testing.assert_allclose(norm, expected[space], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_norms_of_short_floats_are_accumulated_in_float32(dtype):
    params = {"w": jnp.full((4096, 3), 0.1, dtype)}
    zigs = handmade_zigs(params, {"w": [("w", 1)]})
    (norm,) = norms.squared_norms(zigs, norms.grouped_leaves(zigs, params)).values()
    assert norm.dtype == jnp.float32
    exact = 4096 * float(jnp.asarray(0.1, dtype)) ** 2
    np.testing.assert_allclose(norm, exact, rtol=1e-5)


def test_contiguous_axes_need_no_gather_scatter_or_concatenation():
    params, zigs = TREES["conv"]()

    def both(params):
        leaves = norms.grouped_leaves(zigs, params)
        vectors = norms.squared_norms(zigs, leaves)
        return [norms.spread(zigs, vectors, path, x.shape, 0.0) for path, x in leaves.items()]

    names = {equation.primitive.name for equation in jax.make_jaxpr(both)(params).eqns}
    assert not names & {"gather", "scatter", "scatter-add", "concatenate", "dynamic_slice"}


def test_nonzero_counts_count_bitwise_zeros():
    params, zigs = attention_tree()
    params["value"]["bias"] = params["value"]["bias"].at[1].set(jnp.nan)
    params["value"]["kernel"] = params["value"]["kernel"].at[:, 0].set(0).at[:, 1].set(-0.0)
    params["value"]["bias"] = params["value"]["bias"].at[0].set(0)
    counts = norms.nonzero_counts(zigs, norms.grouped_leaves(zigs, params))
    assert counts["heads"].tolist() == [0, 4, 28]


def test_trees_are_matched_by_normalised_path_and_shape():
    params, zigs = TREES["dense"]()
    boxed = jax.tree.map(lambda x: Boxed(x), params)
    assert norms.grouped_leaves(zigs, boxed).keys() == norms.grouped_leaves(zigs, params).keys()
    del params["head"]  # In no group, so not needed.
    norms.grouped_leaves(zigs, params)
    with pytest.raises(oto_jax.ZIGMismatchError, match="'one/bias' has shape \\(3,\\)"):
        norms.grouped_leaves(zigs, {**params, "one": {**params["one"], "bias": jnp.ones(3)}})
    del params["one"]["bias"]
    with pytest.raises(oto_jax.ZIGMismatchError, match="no 'one/bias'"):
        norms.grouped_leaves(zigs, params)


@jax.tree_util.register_pytree_with_keys_class
class Boxed:
    """Like an NNX variable: its value lies one key deeper."""

    def __init__(self, value):
        self.value = value

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.GetAttrKey("value"), self.value),), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)
