"""A narrowed function is proven anew for whatever it is called with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax

RNG = np.random.default_rng(0)
PARAMS = {
    "a": jnp.asarray(RNG.standard_normal((4, 8))),
    "b": jnp.asarray(RNG.standard_normal((8, 3))),
    "bias": jnp.zeros(8),
    "more": jnp.ones((8, 2)),
}
X = jnp.asarray(RNG.standard_normal((3, 6, 4)))


def activated(params, x, act="relu"):
    return getattr(jax.nn, act)(x @ params["a"]) @ params["b"]


def with_positions(params, x):
    angles = np.arange(x.shape[1])[:, None] / 10.0 ** np.arange(8)
    return (x @ params["a"] + jnp.asarray(np.sin(angles))[None]) @ params["b"]


def of_many(params, x):
    hidden = x @ params["a"]
    return jnp.tanh(hidden) @ params["b"] if len(x) <= 4 else jnp.exp(hidden) @ params["b"]


def or_hidden(params, x, hidden=False):
    return x @ params["a"] if hidden else jnp.tanh(x @ params["a"]) @ params["b"]


def or_named_hidden(params, x, hidden=False):
    found = x[0, 0] @ params["a"] + params["bias"]
    return {"bias": found} if hidden else jnp.tanh(found) @ params["b"]


def with_another_head(params, x, train=False):
    hidden = jnp.tanh(x @ params["a"])
    return hidden @ params["more"] if train else hidden @ params["b"]


def plus_input(params, x, gate=None):
    hidden = jnp.tanh(x @ params["a"])
    return (hidden if gate is None else hidden * gate) @ params["b"]


def narrowed(fn, x):
    zigs = oto_jax.find_zigs(fn, PARAMS, x)
    dead = {**PARAMS, "a": PARAMS["a"].at[:, :3].set(0)}
    return dead, *oto_jax.narrow(fn, dead, zigs)


@pytest.mark.parametrize(
    "fn, found_on, called_with, options, reason",
    [
        (activated, X, X, {"act": "sigmoid"}, "logistic makes a zeroed unit 0.5"),
        (with_positions, X[:, :1], X, {}, "add makes a zeroed unit not constant"),
        (of_many, X, jnp.concatenate([X, X]), {}, "exp makes a zeroed unit 1"),
        (or_hidden, X, X, {"hidden": True}, "axis of the output"),
        (or_named_hidden, X, X, {"hidden": True}, "axis of the output 'bias'"),
        (with_another_head, X, X, {"train": True}, "axis of 'more', which was not cut"),
        (plus_input, X, X, {"gate": jnp.ones((3, 6, 8))}, "axis of input 1"),
    ],
)
def test_another_program_is_refused_where_the_cut_is_not_safe(
    fn, found_on, called_with, options, reason
):
    dead, narrow, slim = narrowed(fn, found_on)
    np.testing.assert_allclose(narrow(slim, found_on), fn(dead, found_on), rtol=1e-4, atol=1e-5)
    with pytest.raises(oto_jax.ZIGMismatchError, match=reason):
        narrow(slim, called_with, **options)


@pytest.mark.parametrize(
    "fn, called_with, options",
    [
        (activated, X, {"act": "gelu"}),
        (of_many, X[:2], {}),
        (activated, jnp.concatenate([X, X], axis=1), {}),
    ],
)
def test_another_program_runs_where_it_is(fn, called_with, options):
    dead, narrow, slim = narrowed(fn, X)
    np.testing.assert_allclose(
        narrow(slim, called_with, **options), fn(dead, called_with, **options), rtol=1e-4, atol=1e-5
    )


@jax.custom_jvp
def rectified(h, mixes):
    return jnp.maximum(h, 0)


@rectified.defjvp
def _(primals, tangents):
    (h, mixes), (step, _) = primals, tangents
    step = jnp.where(mixes > 0, step - step.mean(-1, keepdims=True), step)
    return rectified(h, mixes), step * (h > 0)


@jax.custom_jvp
def rectified_alone(h):
    return jnp.maximum(h, 0)


@rectified_alone.defjvp
def _(primals, tangents):
    return rectified_alone(*primals), tangents[0] * (primals[0] > 0)


def test_a_derivative_that_mixes_units_is_refused():
    def fn(params, x):
        return rectified(x @ params["a"], 1.0) @ params["b"]

    dead, narrow, slim = narrowed(fn, X)
    np.testing.assert_allclose(narrow(slim, X), fn(dead, X), rtol=1e-4, atol=1e-5)
    with pytest.raises(oto_jax.ZIGMismatchError, match="derivative .* mixes units"):
        jax.grad(lambda params: narrow(params, X).sum())(slim)


def test_a_derivative_of_each_unit_by_itself_is_kept():
    def fn(params, x):
        return rectified_alone(x @ params["a"]) @ params["b"]

    dead, narrow, slim = narrowed(fn, X)
    full = jax.grad(lambda params: fn(params, X).sum())(dead)
    found = jax.grad(lambda params: narrow(params, X).sum())(slim)
    np.testing.assert_allclose(found["a"], full["a"][:, 3:], rtol=1e-4, atol=1e-5)
