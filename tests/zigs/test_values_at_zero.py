"""What a program makes of a zeroed unit: a group is admitted only if the unit stays zero."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import oto_jax

X = jnp.asarray(np.random.default_rng(2).standard_normal((3, 6, 4)))
PARAMS = {
    "a": jnp.asarray(np.random.default_rng(0).standard_normal((4, 8))),
    "b": jnp.asarray(np.random.default_rng(1).standard_normal((8, 3))),
}
FAR = jnp.array([0, 9])  # The second is out of the bounds of any axis here.


def is_zero(h, dtype):
    return (h == 0).astype(dtype)


NOT_ZERO = {
    "cumlogsumexp along another axis": lambda h: lax.cumlogsumexp(h, axis=1),
    "padding between entries": lambda h: lax.pad(
        h, jnp.ones((), h.dtype), [(0, 0, 0), (0, 0, 1), (0, 0, 0)]
    ),
    "a number out of bounds": lambda h: h.at[:, FAR].get(mode="fill", fill_value=5.0),
    "a uniform array out of bounds": lambda h: (
        h + 1 - jnp.ones((1, 6, 1)).at[:, jnp.arange(1, 7)].get(mode="fill", fill_value=0.0)
    ),
    "a function applied in place": lambda h: h.at[:, 2].apply(jnp.cos),
    "the largest of nothing": lambda h: jnp.tanh(nn.max_pool(h, (2,), (2,), padding=((2, 2),))),
    "the largest of a hole": lambda h: jnp.tanh(
        lax.reduce_window(h, -jnp.inf, lax.max, (1, 1, 1), (1, 1, 1), "VALID", (1, 2, 1))
    ),
    "unsigned integers wrap": lambda h: (-is_zero(h, jnp.uint8)).astype(h.dtype) + 1,
    "integers overflow": lambda h: (
        (is_zero(h, jnp.int8) * jnp.int8(100) * jnp.int8(2)).astype(h.dtype) - 200
    ),
    "integers divide": lambda h: (
        lax.div((h != 0).astype(int) + 3, jnp.full(h.shape, 2)).astype(h.dtype) * 2 - 3
    ),
    "bfloat16 rounds": lambda h: (h + 0.1).astype(jnp.bfloat16).astype(h.dtype) - 0.1,
    "float16 is infinite": lambda h: h * (h + 1e6).astype(jnp.float16).astype(h.dtype),
    "less precision": lambda h: lax.reduce_precision(h + 0.1, 8, 7) - 0.1,
}
ZERO = {
    "cumulative sum along another axis": lambda h: jnp.cumsum(h, axis=1),
    "zeros between entries": lambda h: lax.pad(
        h, jnp.zeros((), h.dtype), [(0, 0, 0), (0, 0, 1), (0, 0, 0)]
    ),
    "zero out of bounds": lambda h: h.at[:, FAR].get(mode="fill", fill_value=0.0),
    "entries by their index": lambda h: jnp.take(h, jnp.array([2, 0, 1]), axis=1),
    "zeros in place": lambda h: h.at[:, 2].set(0),
    "the largest, padded a little": lambda h: jnp.tanh(
        nn.max_pool(h, (3,), (2,), padding=((1, 1),))
    ),
    "what needs no rounding": lambda h: (h + 0.5).astype(jnp.bfloat16).astype(h.dtype) - 0.5,
    "a constant and back": lambda h: (h + 0.1) - 0.1,
    "whole numbers": lambda h: (is_zero(h, jnp.int8) * jnp.int8(100)).astype(h.dtype) - 100,
    "rounded": jnp.round,
    "transformed along another axis": lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=1), 6, axis=1),
    "a part of a complex number": lambda h: lax.complex(h, 2 * h).imag,
    "bits": lambda h: ((h * 8).astype(int) & 5 ^ (h * 8).astype(int)).astype(h.dtype),
    "sorted by index along another axis": lambda h: jnp.take_along_axis(
        h, jnp.argsort(h, axis=1), axis=1
    ),
}


def find(f):
    def fn(params, x):
        return f(x @ params["a"]) @ params["b"]

    return fn, oto_jax.find_zigs(fn, PARAMS, X)


@pytest.mark.parametrize("name", NOT_ZERO)
def test_a_unit_that_does_not_stay_zero_is_blocked(name):
    fn, zigs = find(NOT_ZERO[name])
    assert zigs.num_groups == 0
    dead = {**PARAMS, "a": PARAMS["a"].at[:, 0].set(0)}
    other = {**dead, "b": dead["b"].at[0].add(1)}
    assert not np.array_equal(fn(dead, X), fn(other, X))  # So it had to be.


@pytest.mark.parametrize("name", ZERO)
def test_a_unit_that_stays_zero_is_admitted(name):
    with jax.enable_x64(True):
        fn, zigs = find(ZERO[name])
        assert zigs.num_groups == 8
        dead = {**PARAMS, "a": PARAMS["a"].at[:, :3].set(0)}
        narrow, slim = oto_jax.narrow(fn, dead, zigs)
        assert slim["a"].shape == (4, 5)
        np.testing.assert_allclose(narrow(slim, X), fn(dead, X), rtol=1e-6, atol=1e-6)


def residues(h):
    return jnp.arange(h.shape[1]) % 3


PLACED = {
    "counted by its value": lambda h: jax.vmap(lambda row: jnp.bincount(row.astype(int), length=3))(
        h
    ),
    "a number added by index": lambda h: jax.ops.segment_sum(nn.sigmoid(h).T, residues(h), 3).T,
    "multiplied by index": lambda h: jnp.ones((3, 3)).at[:, residues(h)].mul(h),
    "written by index": lambda h: jnp.ones((3, 3)).at[:, residues(h)].set(h),
    "compared by index": lambda h: jnp.full((3, 3), -9.0).at[:, residues(h)].max(-nn.relu(h)),
    "padding among its own units": lambda h: nn.relu(
        jnp.pad(h, ((0, 0), (0, h.shape[1])), constant_values=9.0) + jnp.concatenate([h, h], 1)
    ).sum(1),
}


@pytest.mark.parametrize("name", PLACED)
def test_units_that_a_computed_place_or_padding_makes_count_are_blocked(name):
    def fn(params, x):
        return PLACED[name](x[:, 0] @ params["a"])

    assert oto_jax.find_zigs(fn, PARAMS, X, narrow_only=True).num_groups == 0
    dead = {"a": PARAMS["a"].at[:, 5:].set(0)}
    assert not np.allclose(fn(dead, X), fn({"a": dead["a"][:, :5]}, X))  # So they had to be.


def test_zeros_added_at_a_computed_place_are_admitted():
    def fn(params, x):
        h = nn.relu(x[:, 0] @ params["a"])
        return jax.ops.segment_sum(h.T, residues(h), 3).T

    with jax.enable_x64(True):
        zigs = oto_jax.find_zigs(fn, PARAMS, X, narrow_only=True)
        dead = {**PARAMS, "a": PARAMS["a"].at[:, :3].set(0)}
        narrow, slim = oto_jax.narrow(fn, dead, zigs)
        assert slim["a"].shape == (4, 5)
        np.testing.assert_allclose(narrow(slim, X), fn(dead, X), rtol=1e-6, atol=1e-6)


def test_arrays_put_on_a_device_together_pass_through():
    def fn(params, x):
        hidden, x = jax.device_put((x @ params["a"], x))
        return hidden @ params["b"] + x.sum()

    assert oto_jax.find_zigs(fn, PARAMS, X).num_groups == 8


def test_two_arrays_of_one_path_are_refused():
    """The attribute ``value`` is one that boxes have, and no part of a path."""

    class Mixer(NamedTuple):
        value: Any
        kernel: Any

    class Inner(NamedTuple):
        kernel: Any

    def fn(params, x):
        return jnp.tanh(x @ params.value.kernel) @ params.kernel

    params = Mixer(Inner(PARAMS["a"]), PARAMS["b"])
    with pytest.raises(oto_jax.UntraceableError, match="two arrays have the path 'kernel'"):
        oto_jax.find_zigs(fn, params, X)


def test_a_parameter_without_entries_is_no_obstacle():
    def fn(params, x):
        return nn.relu(x @ params["a"]) @ params["b"] + params["none"].T.reshape(-1).sum()

    assert oto_jax.find_zigs(fn, {**PARAMS, "none": jnp.zeros((0, 3))}, X).num_groups == 8
