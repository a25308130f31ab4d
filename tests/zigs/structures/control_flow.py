"""Scans, loops, branches and custom derivatives; state spaces and experts."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zigs.structures.layers import dense, row
from tests.zigs.structures.structure import structure


@structure({"i": (4, 6), "a": (3, 6, 5), "b": (3, 5, 6), "o": (6, 2)}, (2, 4), [6, 5])
def scan_over_layers(p, x):
    def layer(h, w):
        return h + dense(jax.nn.relu(dense(h, w["a"])), w["b"]), None

    h, _ = lax.scan(layer, dense(x, p["i"]), {"a": p["a"], "b": p["b"]})
    return dense(h, p["o"])


@structure({"i": (3, 6), "h": (6, 6), "o": (6, 2)}, (2, 5, 3), [6])
def scan_over_time(p, x):
    def step(h, x):
        h = jnp.tanh(dense(x, p["i"]) + dense(h, p["h"]))
        return h, h

    _, hs = lax.scan(step, jnp.zeros((2, 6), x.dtype), x.swapaxes(0, 1))
    return dense(hs, p["o"])


@structure({"i": (3, 6), "h": (6, 6), "o": (6, 2)}, (2, 5, 3), [6])
def unrolled_over_time(p, x):
    h = jnp.zeros((2, 6), x.dtype)  # A constant: it meets the recurrent kernel before any data.
    for t in range(x.shape[1]):
        h = jnp.tanh(dense(x[:, t], p["i"]) + dense(h, p["h"]))
    return dense(h, p["o"])


@structure({"i": (3, 24), "h": (6, 24), "b": (24,), "o": (6, 2)}, (2, 5, 3), [6])
def lstm_fused_gates(p, x):
    def step(carry, x):
        h, c = carry
        gates = dense(x, p["i"]) + dense(h, p["h"]) + row(p["b"], x)
        i, f, g, o = jnp.split(gates, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zero = jnp.zeros((2, 6), x.dtype)
    (h, _), _ = lax.scan(step, (zero, zero), x.swapaxes(0, 1))
    return dense(h, p["o"])


@structure({"a": (4, 6), "b": (6, 5), "o": (5, 2)}, (2, 4), [6, 5])
def rematerialised(p, x):
    @jax.checkpoint
    def block(x):
        return jax.nn.relu(dense(jax.nn.gelu(dense(x, p["a"])), p["b"]))

    return dense(block(x), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (3, 2, 4), [6])
def vmapped(p, x):
    return jax.vmap(lambda x: dense(jax.nn.silu(dense(x, p["a"])), p["o"]))(x)


@jax.custom_vjp
def clipped(x):
    return jnp.clip(x, -1, 1)


clipped.defvjp(lambda x: (clipped(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 2, g, 0),))


@structure({"a": (4, 6), "o": (6, 2)}, (3, 4), [6])
def custom_derivative(p, x):
    return dense(clipped(dense(x, p["a"])), p["o"])


@structure({"a": (4, 6), "b": (6, 6), "o": (6, 2)}, (3, 4), [6])
def conditional(p, x):
    h = dense(x, p["a"])
    h = lax.cond(jnp.sum(x) > 0, jax.nn.relu, lambda h: dense(jnp.tanh(h), p["b"]), h)
    return dense(h, p["o"])


@structure({"a": (4, 6), "b": (6, 6), "o": (6, 2)}, (3, 4), [6])
def while_loop(p, x):
    def step(carry):
        n, h = carry
        return n + 1, h + jnp.tanh(dense(h, p["b"]))

    _, h = lax.while_loop(lambda c: c[0] < 3, step, (0, dense(x, p["a"])))
    return dense(h, p["o"])


@structure(
    {"in": (4, 12), "conv": (3, 1, 6), "dt": (6,), "A": (6, 2), "bc": (6, 4), "D": (6,),
     "out": (6, 4)},
    (2, 5, 4), [6],
)  # fmt: skip
def selective_state_space(p, x):
    u, z = jnp.split(dense(x, p["in"]), 2, -1)
    u = lax.conv_general_dilated(
        u, p["conv"], (1,), [(2, 0)], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=6,
    )  # fmt: skip
    u = jax.nn.silu(u)
    b, c = jnp.split(dense(u, p["bc"]), 2, -1)
    step = jax.nn.softplus(u * row(p["dt"], u))
    decay = jnp.exp(-step[..., None] * jnp.exp(p["A"])[None, None])
    drive = (step * u)[..., None] * b[:, :, None, :]

    def combine(left, right):
        return left[0] * right[0], left[1] * right[0] + right[1]

    _, h = lax.associative_scan(combine, (decay, drive), axis=1)
    y = jnp.sum(h * c[:, :, None, :], -1) + u * row(p["D"], u)
    return dense(y * jax.nn.silu(z), p["out"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 5, 4), [6])
def cumulative_sum(p, x):
    return dense(jnp.cumsum(jax.nn.relu(dense(x, p["a"])), 1), p["o"])


@structure({"r": (4, 3), "a": (3, 4, 5), "b": (3, 5, 4)}, (6, 4), [3])
def mixture_of_experts(p, x):
    weights, chosen = lax.top_k(dense(x, p["r"]), 2)
    gates = jnp.einsum("nk,nke->ne", jax.nn.softmax(weights, -1), jax.nn.one_hot(chosen, 3))
    h = jax.nn.relu(jnp.einsum("nd,edf->nef", x, p["a"]))
    return jnp.einsum("nef,efd,ne->nd", h, p["b"], gates)
