"""NNX models, one for each way in which a width can be written down."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.prune.linen_models import IMAGES, SEQUENCES, TOKENS, VECTORS


class MLP(nnx.Module):
    def __init__(self, rngs, hidden=12):
        self.first = nnx.Linear(7, hidden, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, use_running_average=True, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(hidden, 10, rngs=rngs), nnx.Linear(10, 3, rngs=rngs)])
        self.dropout = nnx.Dropout(0.1, deterministic=True, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.first(x))))
        return self.rest[1](nnx.relu(self.rest[0](x)))


class ConvNet(nnx.Module):
    """Residual, depthwise and grouped convolution, GroupNorm, transposed, flatten, dense."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.branch = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.grouped = nnx.Conv(8, 16, (1, 1), feature_group_count=4, rngs=rngs)
        self.norm = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        self.up = nnx.ConvTranspose(16, 6, (3, 3), rngs=rngs)
        self.head = nnx.Linear(6 * 64, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        x = nnx.relu(x + self.branch(x))
        x = nnx.relu(self.grouped(nnx.relu(self.depthwise(x))))
        x = nnx.relu(self.up(nnx.relu(self.norm(x))))
        return self.head(x.reshape(x.shape[0], -1))


class Attention(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=4, in_features=16, qkv_features=24, decode=False, rngs=rngs
        )

    def __call__(self, x):
        return x + self.attention(self.norm(x))


class OwnAttention(nnx.Module):
    """Attention that reshapes by its own attributes, with a fused projection."""

    def __init__(self, rngs):
        self.heads, self.head_dim = 4, 6
        self.qkv = nnx.Linear(16, 72, rngs=rngs)
        self.out = nnx.Linear(24, 16, rngs=rngs)

    def __call__(self, x):
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_dim)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(self.head_dim)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return x + self.out(mixed.reshape(batch, length, -1))


class Embedding(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 12, rngs=rngs)
        self.shape = nnx.LinearGeneral(12, (3, 5), rngs=rngs)
        self.out = nnx.LinearGeneral((3, 5), 2, axis=(-2, -1), rngs=rngs)

    def __call__(self, tokens):
        return self.out(nnx.relu(self.shape(jnp.tanh(self.embed(tokens)))))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        cell = nnx.GRUCell(16, 8, rngs=rngs, param_dtype=jnp.result_type(float))
        self.rnn = nnx.RNN(cell, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x))


class Ensemble(nnx.Module):
    """Layers whose parameters ``nnx.vmap`` stacked in front."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=5)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return nnx.Linear(7, 10, rngs=rngs)

        self.layers = make(rngs)
        self.out = nnx.Linear(10, 2, rngs=rngs)

    def __call__(self, x):
        run = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None), out_axes=0)
        return self.out(nnx.relu(run(self.layers, x)).sum(0))


class HardCoded(nnx.Module):
    """Fixes a shape in its code."""

    def __init__(self, rngs):
        self.first = nnx.Linear(7, 12, rngs=rngs)
        self.last = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)).reshape(-1, 3, 4).reshape(-1, 12))


@dataclasses.dataclass(frozen=True)
class Case:
    model: Any
    inputs: np.ndarray
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES = {
    "mlp": Case(MLP, VECTORS),
    "conv": Case(ConvNet, IMAGES),
    "heads": Case(Attention, SEQUENCES),
    "head_dim": Case(Attention, SEQUENCES, {"attention": "head_dim"}),
    "own_attention": Case(OwnAttention, SEQUENCES),
    "embedding": Case(Embedding, TOKENS),
    "recurrent": Case(Recurrent, SEQUENCES),
    "ensemble": Case(Ensemble, VECTORS),
}
