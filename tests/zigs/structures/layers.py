"""The layers that structures are built of, on bare arrays."""

import jax
import jax.numpy as jnp
from jax import lax


def conv(x, w, stride=1, groups=1, dilation=1, padding="SAME"):
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding, rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


def moments(x, axes):
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(x * x, axes, keepdims=True) - mean * mean


def row(v, x):
    """A vector as the last axis of an array of x's rank."""
    return v.reshape((1,) * (x.ndim - 1) + (-1,))


def batch_norm(x, scale, bias):
    mean, var = moments(x, tuple(range(x.ndim - 1)))
    return (x - mean) * lax.rsqrt(var + 1e-5) * row(scale, x) + row(bias, x)


def layer_norm(x, scale, bias):
    mean, var = moments(x, -1)
    return (x - mean) * lax.rsqrt(var + 1e-6) * row(scale, x) + row(bias, x)


def rms_norm(x, scale):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * row(scale, x)


def dense(x, w):
    return jnp.tensordot(x, w, 1)


def softmax_attention(q, k, v, scale):
    """q, k, v: batch, length, heads, dims."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)
