"""Dense and convolutional networks: how branches join, split, reshape and normalise."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from tests.zigs.structures.layers import batch_norm, conv, dense, moments, row
from tests.zigs.structures.structure import structure

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
