"""Certificates: differences, and costs counted by hand."""

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from jax import lax

import oto_jax
from oto_jax.prune.difference import worst_difference
from tests.prune.linen_models import IMAGES, VGGNet
from tests.prune.nnx_models import MLP
from tests.prune.zeroing import half_zero, random_groups, randomised, zero_groups

X = jnp.ones((4, 6))
W = jnp.ones((6, 5))


def looped(x, w):
    return lax.scan(lambda c, _: (jnp.tanh(c @ w @ w.T), None), x, None, length=7)[0]


def branched(x, w):
    return lax.cond(x[0, 0] > 0, lambda: x @ w @ w.T, lambda: x)


def waited(x, w):
    return lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c @ w @ w.T, x)


@jax.custom_vjp
def custom(x, w):
    return x @ w


@jax.custom_jvp
def custom_forward(x, w):
    return x @ w


@custom_forward.defjvp
def custom_forward_jvp(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    return x @ w, dx @ w + x @ dw


custom.defvjp(lambda x, w: (x @ w, (x, w)), lambda res, g: (g @ res[1].T, res[0].T @ g))


@pytest.mark.parametrize(
    "fn, macs",
    [
        (lambda x, w: x @ w, 4 * 6 * 5),
        (looped, 7 * 2 * 4 * 6 * 5),
        (branched, 2 * 4 * 6 * 5),
        (waited, 2 * 4 * 6 * 5),
        (custom, 4 * 6 * 5),
        (jax.jit(jax.checkpoint(looped)), 7 * 2 * 4 * 6 * 5),
        (jax.vmap(lambda x, w: x @ w, in_axes=(0, None)), 4 * 6 * 5),
        (lambda x, w: x + jnp.exp(w).sum(), 0),
        (custom_forward, 4 * 6 * 5),
    ],
)
def test_matrix_products(fn, macs):
    assert oto_jax.count_macs(fn, X, W) == macs


def conv(x, w, **options):
    return lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def test_convolutions():
    x, w = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 6, 10))
    assert oto_jax.count_macs(conv, x, w) == 2 * 6 * 6 * 10 * 9 * 6
    grouped = jnp.ones((3, 3, 2, 9))
    macs = oto_jax.count_macs(lambda x, w: conv(x, w, feature_group_count=3), x, grouped)
    assert macs == 2 * 6 * 6 * 9 * 9 * 2
    up = lambda x, w: lax.conv_transpose(x, w, (2, 2), "SAME")  # noqa: E731
    assert oto_jax.count_macs(up, x, w) == 2 * 8 * 8 * 6 * 9 * 10


def test_abstract_inputs_and_static_arguments():
    struct = jax.ShapeDtypeStruct((4, 6), jnp.float32)
    assert oto_jax.count_macs(lambda x, flag, w: x @ w if flag else x, struct, True, W) == 120


def test_resnet_like_counts_of_flax_equal_those_by_hand():
    model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(4, (1, 1), strides=2)])
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert oto_jax.count_macs(model.apply, variables, x) == 64 * 9 * 3 * 8 + 16 * 8 * 4
    assert oto_jax.count_parameters(variables) == 9 * 3 * 8 + 8 + 8 * 4 + 4


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9),
    st.floats(-1e3, 1e3),
    st.integers(0, 8),
)
def test_difference_is_the_largest_change(values, change, position):
    a = np.asarray(values)
    b = a.copy()
    b[position % len(a)] += change
    found = worst_difference({"x": a, "y": np.ones(2)}, {"x": b, "y": np.ones(2)})
    assert found.absolute == np.abs(a - b).max()
    if np.abs(a).max() > 0:
        assert found.relative == found.absolute / np.abs(a).max()


def test_difference_of_odd_values():
    inf, nan = np.array([np.inf, 1.0]), np.array([np.nan, 1.0])
    assert worst_difference(inf, inf).absolute == 0
    assert worst_difference(nan, nan).absolute == np.inf
    assert worst_difference(nan, nan, equal_nan=True).absolute == 0
    assert worst_difference(np.zeros(2), np.ones(2)).relative == np.inf
    assert worst_difference(np.zeros(0), np.zeros(0)).relative == 0
    assert worst_difference(np.array([True]), np.array([False])).absolute == 1
    assert worst_difference(jnp.bfloat16(2), jnp.bfloat16(1)).relative == 0.5
    assert worst_difference(np.array([3 + 4j]), np.array([0j])).absolute == 5
    with pytest.raises(oto_jax.OutputMismatchError, match=r"'a/0' has shape \(2,\)"):
        worst_difference({"a": [np.ones(2)]}, {"a": [np.ones(3)]})
    with pytest.raises(oto_jax.OutputMismatchError, match="'b'"):
        worst_difference({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)})


@pytest.fixture(scope="module")
def vgg():
    model, x = VGGNet(), IMAGES.astype(np.float32)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x)
    variables = half_zero(variables, zigs)
    return model, variables, oto_jax.prune(model, variables, zigs), x


def test_every_kind_of_model_gives_the_same_certificate(vgg):
    model, variables, slim, x = vgg
    pairs = [
        ((model, variables), slim),
        ((model, variables), (slim.model, slim.variables)),
        ((model.apply, variables), (slim.model.apply, slim.variables)),
    ]
    found = [oto_jax.certify(full, thin, x, train=False) for full, thin in pairs]
    assert found[0] == found[1] == found[2]
    assert found[0].relative <= 1e-5
    assert found[0].full.parameters == oto_jax.count_parameters(variables)
    assert found[0].full.macs == oto_jax.count_macs(model.apply, variables, x)
    assert found[0].slim.macs < 0.5 * found[0].full.macs
    assert found[0].full.latency is None
    full = lambda x: model.apply(variables, x)  # noqa: E731
    functions = oto_jax.certify(full, lambda x: 1 + full(x), x)
    assert functions.absolute == pytest.approx(1)


def test_latency_is_measured_when_asked_and_printed(vgg):
    model, variables, slim, x = vgg
    certificate = oto_jax.certify((model, variables), slim, x, repeats=5)
    assert certificate.full.latency is not None
    assert certificate.full.latency > 0
    text = repr(certificate)
    assert "latency" in text
    assert f"{certificate.full.parameters:,}" in text


def test_outputs_are_computed_in_full_precision_and_timed_as_the_model_runs():
    seen = []

    def model(w, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return x @ w

    w, x = np.ones((3, 2), np.float32), np.ones((4, 3), np.float32)
    with jax.default_matmul_precision("tensorfloat32"):
        oto_jax.certify((model, w), (model, w), x)
        assert seen[:2] == ["highest", "tensorfloat32"]  # run, then counted
        seen.clear()
        oto_jax.certify((model, w), (model, w), x, repeats=1)
    assert seen.count("highest") == 2
    assert len(seen) > 4  # traced anew to be timed


def test_nnx_models():
    model = MLP(nnx.Rngs(0))
    x = jnp.ones((2, 7))
    zigs = oto_jax.find_zigs(model, x)
    nnx.update(model, zero_groups(nnx.state(model, nnx.Param), zigs, random_groups(zigs)))
    slim = oto_jax.prune(model, zigs)
    certificate = oto_jax.certify(model, slim, x)
    assert certificate == oto_jax.certify(model, slim.model, x)
    assert certificate.relative <= 1e-5
    assert certificate.full.parameters == oto_jax.count_parameters(nnx.state(model, nnx.Param))


def test_unknown_kinds_are_named():
    with pytest.raises(oto_jax.UnprunableModelError, match="int"):
        oto_jax.certify(3, 4, X)
