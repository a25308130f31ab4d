"""Attention in all its spellings, and the residual width of transformers."""

import jax
import jax.numpy as jnp

from tests.zigs.structures.layers import dense, layer_norm, rms_norm, softmax_attention
from tests.zigs.structures.structure import structure

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


@structure({"q": (6, 8), "v": (6, 8), "o": (8, 6)}, (2, 4, 4, 6), [8])
def shifted_windows(p, x):
    x = jnp.roll(x, (-1, -1), (1, 2))
    h = x.reshape(2, 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(8, 4, 6)
    scores = jax.nn.softmax(jnp.einsum("wie,wje->wij", h, h), -1)
    h = dense(jnp.einsum("wij,wjd->wid", scores, dense(h, p["v"])) * dense(h, p["q"]), p["o"])
    h = h.reshape(2, 2, 2, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 6)
    return jnp.roll(h, (1, 1), (1, 2))


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


def rotary_interleaved(x):
    angles = jnp.arange(x.shape[1])[:, None] / 10.0 ** jnp.arange(x.shape[-1] // 2)[None, :]
    cos, sin = (jnp.repeat(f(angles), 2, -1)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    turned = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin


@structure(GROUPED, (2, 5, 8), [3])
def interleaved_rotary_attention(p, x):
    return grouped_query(p, x, rotary_interleaved)
