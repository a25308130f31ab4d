"""A decoder of LLaMA's kind, as a plain function: RMSNorm, rotary attention, SwiGLU."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """The shapes of a decoder; the defaults are LLaMA-7B's (Touvron et al., 2023)."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    key_value_heads: int = 32
    hidden: int = 11008
    vocabulary: int = 32000

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def parameters(self, dtype: Any = np.float32) -> Arrays:
        """The shapes of the parameters."""
        queries, keys = self.heads * self.head_dim, self.key_value_heads * self.head_dim
        layer = {
            "norm_1": (self.width,), "q": (self.width, queries), "k": (self.width, keys),
            "v": (self.width, keys), "o": (queries, self.width), "norm_2": (self.width,),
            "gate": (self.width, self.hidden), "up": (self.width, self.hidden),
            "down": (self.hidden, self.width),
        }  # fmt: skip
        shapes = {
            "embedding": (self.vocabulary, self.width),
            "layers": [layer] * self.layers,
            "norm": (self.width,),
            "head": (self.width, self.vocabulary),
        }
        is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, dtype), shapes, is_leaf=is_shape)

    def __call__(self, params: Arrays, ids: Any) -> Any:
        """Logits of shape (batch, length, vocabulary)."""
        x = params["embedding"][ids]
        for layer in params["layers"]:
            x = x + self._attention(layer, _rms_norm(x, layer["norm_1"]))
            x = x + _feed_forward(layer, _rms_norm(x, layer["norm_2"]))
        return _rms_norm(x, params["norm"]) @ params["head"]

    def _attention(self, layer: Arrays, x: Any) -> Any:
        batch, length, _ = x.shape
        q, k, v = (
            (x @ layer[name]).reshape(batch, length, -1, self.head_dim) for name in ("q", "k", "v")
        )
        repeats = self.heads // self.key_value_heads
        k, v = (jnp.repeat(a, repeats, axis=2) for a in (_rotary(k), v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", _rotary(q), k) * self.head_dim**-0.5
        causal = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, length, -1) @ layer["o"]


def _rms_norm(x: Any, scale: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


def _rotary(x: Any) -> Any:
    """Rotary position embedding (Su et al., 2021), halves side by side."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-jnp.arange(half) / half)
    angles = (jnp.arange(x.shape[1])[:, None] * frequencies[None, :])[:, None, :]
    first, second = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _feed_forward(layer: Arrays, x: Any) -> Any:
    return (jax.nn.silu(x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]
