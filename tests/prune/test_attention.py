"""Attention whose head dimension shrinks keeps its scale, and excuses nothing around it."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oto_jax
from oto_jax.prune.softmax_depth import scaled_attention
from tests.prune.linen_models import SEQUENCES, relative, run
from tests.prune.zeroing import half_zero, randomised, zero_groups


def test_scaled_attention_equals_full_attention_with_zeros():
    """For any kept part of the head dimension, in float64."""
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, 5, 2, 8))
    for attention, equal in ((nn.dot_product_attention, False), (nnx.dot_product_attention, True)):
        for kept in ([0], [1, 4, 5], list(range(8))):
            with jax.enable_x64(True):
                zeroed = np.zeros_like(q)
                zeroed[..., kept] = q[..., kept]
                full = attention(jnp.asarray(zeroed), jnp.asarray(k), jnp.asarray(v))
                attend = scaled_attention(attention, 8, equal)
                slim = attend(*(jnp.asarray(a[..., kept]) for a in (q, k)), jnp.asarray(v))
                np.testing.assert_allclose(slim, full, rtol=1e-12, atol=1e-14)
    assert scaled_attention(attention, 8) is scaled_attention(attention, 8)
    assert scaled_attention(scaled_attention(attention, 8), 4) is scaled_attention(attention, 8)


@pytest.mark.parametrize("kept", [(1, 6), (6, 1), (2, 4), (1, 1)])
def test_head_dimensions_of_queries_and_values_shrink_apart(kept):
    with jax.enable_x64(True):
        model = nn.MultiHeadDotProductAttention(4, qkv_features=24)
        variables = randomised(jax.eval_shape(model.init, jax.random.key(0), SEQUENCES))
        zigs = oto_jax.find_zigs(model, variables, SEQUENCES, attention="head_dim")
        dead = [space.groups[size:] for space, size in zip(zigs.spaces, kept, strict=True)]
        variables = {"params": zero_groups(variables["params"], zigs, np.concatenate(dead))}
        slim = oto_jax.prune(model, variables, zigs)
        assert [space.units.count for space in slim.plan.spaces] == list(kept)
        full = run(model, variables, SEQUENCES)
        assert relative(full, run(slim.model, slim.variables, SEQUENCES)) <= 1e-10


class Formula(nn.Module):
    """Attention whose head dimension shrinks, and a width in a formula beside it."""

    formula: bool
    attention_fn: Any = nn.dot_product_attention
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        options = {"qkv_features": 24, "out_features": 8, "dtype": self.dtype}
        attention = nn.MultiHeadDotProductAttention(2, attention_fn=self.attention_fn, **options)
        x = attention(x, mask=nn.make_causal_mask(x[..., 0], dtype=bool))
        y = nn.relu(nn.Dense(16, dtype=self.dtype)(x))
        y = y * y.shape[-1] if self.formula else y
        return nn.Dense(3)(nn.Dropout(0.1, deterministic=not train)(y))


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_a_shrinking_head_dimension_excuses_nothing_else(dtype):
    """Where random numbers or half precision hide it from values, too."""
    x, key = jnp.asarray(SEQUENCES, jnp.float32), jax.random.key(1)
    for formula in (False, True):
        model = Formula(formula, dtype=dtype)
        variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
        zigs = oto_jax.find_zigs(
            model, variables, x, train=True, rngs={"dropout": key}, attention="head_dim"
        )
        variables = half_zero(variables, zigs)
        if formula:
            with pytest.raises(oto_jax.UnprunableModelError, match=r"mul uses 8\.?0? where .* 16"):
                oto_jax.prune(model, variables, zigs)
        else:
            slim = oto_jax.prune(model, variables, zigs)
            full = run(model, variables, x)
            bound = 1e-5 if dtype is None else 0.05
            assert relative(full, run(slim.model, slim.variables, x)) <= bound


def unscaled(query, key, value, **_):
    """Attention that divides by nothing, whatever the depth."""
    return nn.dot_product_attention(query * np.sqrt(query.shape[-1]), key, value)


def own_scaled(query, key, value, **_):
    """Equation 1, in a user's own words."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / jnp.sqrt(query.shape[-1])
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)


def of_two_heads(query, key, value, **_):
    if query.shape[2] != 2:
        raise ValueError("other heads")
    return own_scaled(query, key, value)


def with_bias(query, key, value, **_):
    bias = -np.abs(np.arange(5.0)[:, None] - np.arange(5.0)) * np.ones((2, 2, 1, 1))
    return nn.dot_product_attention(query, key, value, bias=bias)


def in_half(query, key, value, **_):
    return own_scaled(*(array.astype(jnp.bfloat16) for array in (query, key, value)))


@functools.wraps(nn.dot_product_attention)
def disguised(query, key, value, **_):
    return unscaled(query, key, value)


def noisy(query, key, value, **_):
    noise = jax.random.normal(jax.random.key(0), (1, 1, 1, query.shape[-1]))
    return own_scaled(query * noise, key, value)


TABLE = np.linspace(-3, 3, 12, dtype=np.float32).reshape(1, 1, 1, 12)


def weighted(query, key, value, **_):
    return own_scaled(query * TABLE[..., : query.shape[-1]], key, value)


def asking(query, key, value, *, mask, dropout_rng=None):
    return nn.dot_product_attention(query, key, value, mask=mask)


KEEP_THEIR_SCALE = (
    own_scaled,
    asking,
    of_two_heads,
    with_bias,
    in_half,
    functools.partial(jax.nn.dot_product_attention, is_causal=True),
)


class WithinCall(nn.Module):
    """The function is another object each time."""

    @nn.compact
    def __call__(self, x):
        def attention_fn(*arrays, **options):
            return own_scaled(*arrays, **options)

        return nn.MultiHeadDotProductAttention(2, qkv_features=24, attention_fn=attention_fn)(x)


def test_attention_made_within_a_call_keeps_its_scale():
    x = jnp.asarray(SEQUENCES, jnp.float32)
    model = WithinCall()
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x, attention="head_dim")
    variables = half_zero(variables, zigs)
    slim = oto_jax.prune(model, variables, zigs)
    assert relative(run(model, variables, x), run(slim.model, slim.variables, x)) <= 1e-5


@pytest.mark.parametrize("attention_fn", KEEP_THEIR_SCALE)
def test_attention_of_the_user_keeps_its_scale(attention_fn):
    x = jnp.asarray(SEQUENCES, jnp.float32)
    model = Formula(False, attention_fn)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x, attention="head_dim")
    variables = half_zero(variables, zigs)
    slim = oto_jax.prune(model, variables, zigs)
    bound = 0.03 if attention_fn is in_half else 1e-5
    assert relative(run(model, variables, x), run(slim.model, slim.variables, x)) <= bound


@pytest.mark.parametrize("attention_fn", [unscaled, disguised, noisy, weighted])
def test_attention_that_knows_its_depth_otherwise_is_refused(attention_fn):
    x = jnp.asarray(SEQUENCES, jnp.float32)
    model = Formula(False, attention_fn)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x, attention="head_dim", narrow_only=True)
    with pytest.raises(oto_jax.UnprunableModelError, match="smaller depth|key that is not given"):
        oto_jax.prune(model, half_zero(variables, zigs), zigs)
