"""Small networks, one for each structure that discovery has to see through.

Each is a function of (params, x), the shapes of its parameters, the shape of its input, and the
sizes of the spaces that a careful person would find in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Structure:
    name: str
    fn: Callable[..., Any]
    shapes: Shapes
    inputs: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


STRUCTURES: dict[str, Structure] = {}


def structure(
    shapes: Shapes, x: tuple[int, ...] | list[tuple[int, ...]], sizes: list[int], **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        inputs = tuple(x) if isinstance(x, list) else (x,)
        name = fn.__name__
        STRUCTURES[name] = Structure(name, fn, shapes, inputs, tuple(sorted(sizes)), options)
        return fn

    return add


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


IMAGE = (2, 6, 6, 3)


@structure({"a": (4, 7), "b": (7,), "c": (7, 3), "d": (3,)}, (5, 4), [7])
def mlp(p, x):
    h = jax.nn.relu(dense(x, p["a"]) + row(p["b"], x))
    return dense(h, p["c"]) + row(p["d"], x)


@structure({"a": (3, 3, 3, 6), "s": (6,), "t": (6,), "b": (3, 3, 6, 5), "o": (5, 2)}, IMAGE, [6, 5])
def conv_batch_norm(p, x):
    x = jax.nn.relu(batch_norm(conv(x, p["a"]), p["s"], p["t"]))
    return dense(jnp.mean(jnp.tanh(conv(x, p["b"])), (1, 2)), p["o"])


@structure(
    {"stem": (3, 3, 3, 6), "a": (1, 1, 6, 4), "b": (3, 3, 4, 6), "c": (3, 3, 6, 5),
     "d": (1, 1, 5, 6), "o": (6, 2)},
    IMAGE, [6, 4, 5],
)  # fmt: skip
def residual(p, x):
    x = jax.nn.relu(conv(x, p["stem"]))
    x = x + conv(jax.nn.relu(conv(x, p["a"])), p["b"])
    x = jax.nn.relu(x) + conv(jax.nn.relu(conv(x, p["c"])), p["d"])
    return dense(jnp.max(x, (1, 2)), p["o"])


@structure({"a": (4, 5), "b": (4, 6), "o": (11, 3)}, (2, 4), [5, 6])
def concatenation(p, x):
    h = jnp.concatenate([dense(x, p["a"]), dense(x, p["b"])], -1)
    return dense(jax.nn.gelu(h), p["o"])


@structure({"a": (4, 5), "o": (10, 3)}, (2, 4), [5])
def concatenation_with_itself(p, x):
    h = dense(x, p["a"])
    return dense(jnp.concatenate([h, jnp.tanh(h)], -1), p["o"])


@structure(
    {"a": (3, 3, 3, 4), "b": (3, 3, 4, 3), "c": (3, 3, 7, 2), "d": (3, 3, 9, 5), "o": (5, 2)},
    IMAGE, [4, 3, 2, 5],
)  # fmt: skip
def dense_block(p, x):
    x = conv(x, p["a"])
    x = jnp.concatenate([x, conv(jax.nn.relu(x), p["b"])], -1)
    x = jnp.concatenate([x, conv(jax.nn.relu(x), p["c"])], -1)
    return dense(jnp.mean(conv(jax.nn.relu(x), p["d"]), (1, 2)), p["o"])


@structure({"a": (4, 10), "o": (5, 3)}, (2, 4), [5])
def gated_linear_unit(p, x):
    u, v = jnp.split(dense(x, p["a"]), 2, -1)
    return dense(u * jax.nn.sigmoid(v), p["o"])


@structure({"g": (4, 6), "u": (4, 6), "o": (6, 3)}, (2, 4), [6])
def swiglu(p, x):
    return dense(jax.nn.silu(dense(x, p["g"])) * dense(x, p["u"]), p["o"])


@structure({"a": (1, 1, 3, 8), "b": (3, 3, 4, 8), "o": (8, 2)}, IMAGE, [4, 2])
def channel_shuffle(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    n, y, z, c = h.shape
    h = h.reshape(n, y, z, 2, c // 2).swapaxes(3, 4).reshape(n, y, z, c)
    h = jax.nn.relu(conv(h, p["b"], groups=2))
    return dense(jnp.mean(h, (1, 2)), p["o"])


@structure({"a": (1, 1, 3, 6), "d": (3, 3, 1, 6), "b": (1, 1, 6, 5), "o": (5, 2)}, IMAGE, [6, 5])
def depthwise_separable(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    h = jax.nn.relu(conv(h, p["d"], groups=6))
    return dense(jnp.mean(jax.nn.relu(conv(h, p["b"])), (1, 2)), p["o"])


@structure({"a": (1, 1, 3, 4), "d": (3, 3, 1, 12), "o": (12, 2)}, IMAGE, [4])
def depthwise_multiplier(p, x):
    h = conv(jax.nn.relu(conv(x, p["a"])), p["d"], groups=4)
    return dense(jnp.mean(h, (1, 2)), p["o"])


@structure({"a": (1, 1, 3, 12), "d": (3, 3, 4, 9), "o": (9, 2)}, IMAGE, [3])
def grouped_convolution(p, x):
    h = conv(jax.nn.relu(conv(x, p["a"])), p["d"], groups=3)
    return dense(jnp.mean(jax.nn.relu(h), (1, 2)), p["o"])


@structure({"a": (3, 3, 3, 6), "r": (6, 4), "e": (4, 6), "o": (6, 2)}, IMAGE, [6, 4])
def squeeze_excite(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    gate = jax.nn.sigmoid(dense(jax.nn.relu(dense(jnp.mean(h, (1, 2)), p["r"])), p["e"]))
    return dense(jnp.mean(h * gate[:, None, None, :], (1, 2)), p["o"])


@structure({"a": (3, 3, 3, 8), "s": (8,), "t": (8,), "o": (8, 2)}, IMAGE, [4])
def group_norm(p, x):
    h = conv(x, p["a"])
    n, y, z, c = h.shape
    g = h.reshape(n, y, z, 4, c // 4)
    mean, var = moments(g, (1, 2, 4))
    h = ((g - mean) * lax.rsqrt(var + 1e-5)).reshape(n, y, z, c) * row(p["s"], h) + row(p["t"], h)
    return dense(jnp.mean(jax.nn.relu(h), (1, 2)), p["o"])


@structure({"a": (3, 3, 3, 5), "s": (5,), "t": (5,), "o": (5, 2)}, IMAGE, [5])
def instance_norm(p, x):
    h = conv(x, p["a"])
    mean, var = moments(h, (1, 2))
    h = (h - mean) * lax.rsqrt(var + 1e-5) * row(p["s"], h) + row(p["t"], h)
    return dense(jnp.mean(jax.nn.relu(h), (1, 2)), p["o"])


@structure({"a": (3, 3, 3, 5), "slope": (5,), "o": (5, 2)}, IMAGE, [5])
def prelu(p, x):
    h = conv(x, p["a"])
    return dense(jnp.mean(jnp.where(h >= 0, h, h * row(p["slope"], h)), (1, 2)), p["o"])


@structure({"a": (3, 3, 3, 5), "b": (2, 2, 5, 4), "c": (3, 3, 4, 6), "o": (6, 2)}, IMAGE, [5, 4, 6])
def transposed_and_dilated(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    h = lax.conv_transpose(h, p["b"], (2, 2), "SAME")
    h = conv(jax.nn.relu(h), p["c"], dilation=2)
    return dense(jnp.mean(jax.nn.relu(h), (1, 2)), p["o"])


@structure({"a": (3, 3, 3, 5), "f": (180, 7), "o": (7, 2)}, IMAGE, [5, 7])
def flatten(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    return dense(jax.nn.relu(dense(h.reshape(h.shape[0], -1), p["f"])), p["o"])


@structure({"a": (4, 45), "b": (3, 3, 5, 2)}, (2, 4), [5])
def dense_to_image(p, x):
    h = jax.nn.relu(dense(x, p["a"])).reshape(-1, 3, 3, 5)
    return conv(h, p["b"])


@structure({"e": (9, 6), "a": (6, 5), "o": (5, 3)}, (2, 4), [6, 5])
def embedding(p, x):
    tokens = jnp.clip(jnp.abs(x * 4).astype(int), 0, 8)
    return dense(jax.nn.relu(dense(p["e"][tokens], p["a"])), p["o"])


@structure({"e": (9, 6), "a": (6, 5), "b": (5, 6)}, (2, 4), [6, 5])
def tied_embedding(p, x):
    tokens = jnp.clip(jnp.abs(x * 4).astype(int), 0, 8)
    h = p["e"][tokens]
    h = h + dense(jax.nn.relu(dense(h, p["a"])), p["b"])
    return dense(h, p["e"].T)


@structure({"i": (4, 6), "a": (6, 6), "o": (6, 3)}, (2, 4), [6])
def layer_used_twice(p, x):
    h = jax.nn.relu(dense(x, p["i"]))
    h = jax.nn.relu(dense(h, p["a"]))
    return dense(jax.nn.relu(dense(h, p["a"])), p["o"])


ATTENTION = {"q": (8, 4, 3), "k": (8, 4, 3), "v": (8, 4, 3), "o": (4, 3, 8)}


def attention_heads_first(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qkv")
    return jnp.einsum("bthe,hed->btd", softmax_attention(q, k, v, 0.5), p["o"])


structure(ATTENTION, (2, 5, 8), [4])(attention_heads_first)


@structure(ATTENTION, (2, 5, 8), [3, 3], attention="head_dim")
def attention_head_dims(p, x):
    return attention_heads_first(p, x)


@structure({"q": (8, 12), "k": (8, 12), "v": (8, 12), "o": (12, 8)}, (2, 5, 8), [4])
def attention_by_reshape(p, x):
    q, k, v = (dense(x, p[name]).reshape(2, 5, 4, 3) for name in "qkv")
    return dense(softmax_attention(q, k, v, 0.5).reshape(2, 5, 12), p["o"])


@structure({"qkv": (8, 36), "o": (12, 8)}, (2, 5, 8), [4])
def attention_fused_axis(p, x):
    q, k, v = jnp.moveaxis(dense(x, p["qkv"]).reshape(2, 5, 3, 4, 3), 2, 0)
    return dense(softmax_attention(q, k, v, 0.5).reshape(2, 5, 12), p["o"])


@structure({"qkv": (8, 36), "o": (12, 8)}, (2, 5, 8), [4])
def attention_fused_split(p, x):
    parts = jnp.split(dense(x, p["qkv"]), 3, -1)
    q, k, v = (part.reshape(2, 5, 4, 3) for part in parts)
    return dense(softmax_attention(q, k, v, 0.5).reshape(2, 5, 12), p["o"])


def rotary(x):
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] / 10.0 ** (jnp.arange(half)[None, :] / half)
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


GROUPED = {"q": (8, 24), "k": (8, 12), "v": (8, 12), "o": (24, 8)}


def grouped_query(p, x, rotate):
    q = rotate(dense(x, p["q"]).reshape(2, 5, 6, 4))
    k = rotate(dense(x, p["k"]).reshape(2, 5, 3, 4))
    v = dense(x, p["v"]).reshape(2, 5, 3, 4)
    k, v = jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2)
    return dense(softmax_attention(q, k, v, 0.5).reshape(2, 5, 24), p["o"])


@structure(GROUPED, (2, 5, 8), [3])
def grouped_query_attention(p, x):
    return grouped_query(p, x, rotary)


@structure(
    {"q": (8, 24), "k": (8, 4), "v": (8, 4), "o": (24, 8)}, (2, 5, 8), [4, 4], attention="head_dim"
)
def multi_query_attention(p, x):
    q = dense(x, p["q"]).reshape(2, 5, 6, 4)
    scores = jnp.einsum("bqhd,bkd->bhqk", q, dense(x, p["k"])) * 0.5
    out = jnp.einsum("bhqk,bkd->bqhd", jax.nn.softmax(scores, -1), dense(x, p["v"]))
    return dense(out.reshape(2, 5, 24), p["o"])


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


@structure({"q": (6, 8), "v": (6, 8), "o": (8, 6)}, (2, 4, 4, 6), [8])
def shifted_windows(p, x):
    x = jnp.roll(x, (-1, -1), (1, 2))
    h = x.reshape(2, 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(8, 4, 6)
    scores = jax.nn.softmax(jnp.einsum("wie,wje->wij", h, h), -1)
    h = dense(jnp.einsum("wij,wjd->wid", scores, dense(h, p["v"])) * dense(h, p["q"]), p["o"])
    h = h.reshape(2, 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 6)
    return jnp.roll(h, (1, 1), (1, 2))


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


@structure(
    {"a": (4, 5), "b": (3, 5), "o": (5, 2), "q": (5, 3), "unused": (7, 7)}, [(2, 4), (2, 3)], [5]
)
def several_inputs_and_outputs(p, x, y):
    h = jnp.tanh(dense(x, p["a"]) + dense(y, p["b"]))
    return {"first": dense(h, p["o"]), "second": (dense(h, p["q"]), jnp.sum(x))}


@structure({"a": (3, 3, 3, 4), "b": (3, 3, 4, 7), "o": (7, 2)}, IMAGE, [4, 2])
def zero_padded_shortcut(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    shortcut = jnp.pad(h, ((0, 0), (0, 0), (0, 0), (1, 2)))
    return dense(jnp.mean(jax.nn.relu(shortcut + conv(h, p["b"])), (1, 2)), p["o"])


@structure({"a": (4, 6), "r": (6, 2), "s": (2, 5), "o": (5, 2)}, (2, 4), [6, 2, 5])
def low_rank_product(p, x):
    h = jax.nn.relu(dense(x, p["a"]))
    return dense(jax.nn.relu(dense(h, p["r"] @ p["s"])), p["o"])


@structure({"v": (4, 6), "g": (6,), "o": (6, 2)}, (2, 4), [6])
def weight_norm(p, x):
    w = p["v"] * lax.rsqrt(jnp.sum(p["v"] ** 2, 0, keepdims=True) + 1e-12) * row(p["g"], p["v"])
    return dense(jax.nn.relu(dense(x, w)), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [6])
def bfloat16_compute(p, x):
    h = jax.nn.relu(dense(x.astype(jnp.bfloat16), p["a"].astype(jnp.bfloat16)))
    return dense(h, p["o"].astype(jnp.bfloat16)).astype(x.dtype)


BLOCK = {
    "e": (5, 8), "pos": (6, 8), "s1": (8,), "t1": (8,), "q": (8, 2, 4), "k": (8, 2, 4),
    "v": (8, 2, 4), "o": (2, 4, 8), "s2": (8,), "t2": (8,), "up": (8, 10), "down": (10, 8),
    "s3": (8,), "t3": (8,), "out": (8, 3),
}  # fmt: skip


@structure(BLOCK, (2, 6, 5), [8, 2, 10], narrow_only=True)
def encoder_residual_width(p, x):
    h = dense(x, p["e"]) + p["pos"][None]
    h = h + attention_heads_first(p, layer_norm(h, p["s1"], p["t1"]))
    h = h + dense(jax.nn.gelu(dense(layer_norm(h, p["s2"], p["t2"]), p["up"])), p["down"])
    return dense(layer_norm(h, p["s3"], p["t3"]), p["out"])


DECODER = {
    "e": (9, 8), "s1": (8,), "q": (8, 24), "k": (8, 12), "v": (8, 12), "o": (24, 8), "s2": (8,),
    "gate": (8, 10), "up": (8, 10), "down": (10, 8), "s3": (8,), "out": (8, 9),
}  # fmt: skip


@structure(DECODER, (2, 5), [8, 3, 10], narrow_only=True)
def decoder_residual_width(p, x):
    tokens = jnp.clip(jnp.abs(x * 4).astype(int), 0, 8)
    h = p["e"][tokens]
    h = h + grouped_query(p, rms_norm(h, p["s1"]), rotary)
    g = rms_norm(h, p["s2"])
    h = h + dense(jax.nn.silu(dense(g, p["gate"])) * dense(g, p["up"]), p["down"])
    return dense(rms_norm(h, p["s3"]), p["out"])


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


def rotary_interleaved(x):
    angles = jnp.arange(x.shape[1])[:, None] / 10.0 ** jnp.arange(x.shape[-1] // 2)[None, :]
    cos, sin = (jnp.repeat(f(angles), 2, -1)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin


@structure(GROUPED, (2, 5, 8), [3])
def interleaved_rotary_attention(p, x):
    return grouped_query(p, x, rotary_interleaved)


@structure({"a": (4, 6), "b": (4, 6), "o": (6, 2)}, (2, 4), [6])
def stacked_branches(p, x):
    both = jnp.stack([dense(x, p["a"]), jnp.tanh(dense(x, p["b"]))], axis=1)
    first, second = (both[:, 0], both[:, 1])
    return dense(first * second + jnp.sum(both, 1), p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [6])
def named_intermediate(p, x):
    h = checkpoint_name(jax.nn.relu(dense(x, p["a"])), "hidden")
    return dense(h, p["o"])


@structure({"a": (4, 6), "o": (6, 2)}, (2, 4), [6])
def scattered_rows(p, x):
    h = jax.nn.relu(dense(x, p["a"]))
    return dense(jnp.zeros((3, 6), h.dtype).at[jnp.array([2, 2])].add(h).at[1].mul(h[0]), p["o"])
