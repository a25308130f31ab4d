"""What is no zero-invariant group, or only just is one."""

import jax
import jax.numpy as jnp

from tests.zigs.structures.layers import dense, layer_norm, row
from tests.zigs.structures.structure import structure


@structure({"a": (4, 6), "s": (6,), "t": (6,), "o": (6, 2)}, (2, 4), [])
def layer_norm_blocks_rebuilding(p, x):
    return dense(layer_norm(dense(x, p["a"]), p["s"], p["t"]), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [])
def sigmoid_is_not_zero_invariant(p, x):
    return dense(jax.nn.sigmoid(dense(x, p["a"])), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [])
def softmax_over_units(p, x):
    return dense(jax.nn.softmax(dense(x, p["a"]), -1), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [])
def sorted_units(p, x):
    return dense(jnp.sort(dense(x, p["a"]), -1), p["o"])


@structure({"a": (4, 6), "s": (6,), "o": (6, 2)}, (2, 4), [])
def division_by_a_parameter(p, x):
    return dense(dense(x, p["a"]) / row(p["s"], x), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [])
def sum_of_sigmoids(p, x):
    h = jax.nn.sigmoid(dense(x, p["a"]))
    return dense(h * 0 + jnp.sum(h, -1, keepdims=True), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [])
def running_sum_of_sigmoids(p, x):
    return dense(0 * jnp.cumsum(jax.nn.sigmoid(dense(x, p["a"])), -1), p["o"])


@structure({"a": (4, 6), "b": (6, 1), "o": (6, 2)}, (2, 4), [6])
def infinity_times_zero(p, x):
    h = jnp.tanh(dense(x, p["a"]))
    return dense(h, p["b"]) * dense(jnp.where(h == 0, 0, h / jnp.abs(h)), p["o"])


@structure({"a": (4, 6), "b": (6, 1), "o": (6, 2)}, (2, 4), [])
def unguarded_division(p, x):
    h = jnp.tanh(dense(x, p["a"]))
    return dense(h, p["b"]) * dense(h / jnp.abs(h), p["o"])
