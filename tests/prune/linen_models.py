"""Linen models, one for each way in which a width can be written down."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class ResidualNet(nn.Module):
    """A residual conv net with BatchNorm whose stem's width is its configuration."""

    width: int = 12

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        for _ in range(2):
            y = nn.Conv(10, (3, 3), use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
            y = nn.Conv(self.width, (3, 3), use_bias=False)(y)
            x = nn.relu(x + nn.BatchNorm(use_running_average=not train)(y))
        return nn.Dense(5)(x.mean((1, 2)))


class VGGNet(nn.Module):
    """Convolutions with biases, pooling, flatten, dense layers with dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        for features in (8, 12):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(4)(x)


@dataclasses.dataclass(frozen=True)
class Widths:
    hidden: tuple[int, ...] = (10, 14)
    last: int = 12


class Configured(nn.Module):
    """All widths in a nested frozen configuration."""

    widths: Widths = Widths()

    @nn.compact
    def __call__(self, x):
        for features in self.widths.hidden:
            x = nn.relu(nn.Dense(features)(x))
        return nn.Dense(3)(nn.relu(nn.Dense(self.widths.last)(x)))


class SetUp(nn.Module):
    """Submodules made in ``setup``, an embedding, and two methods."""

    def setup(self):
        self.embed = nn.Embed(20, 16)
        self.blocks = [nn.Dense(12), nn.Dense(10)]
        self.head = nn.Dense(3)

    def encode(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = jnp.tanh(block(x))
        return x

    def __call__(self, tokens):
        return self.head(self.encode(tokens))


class Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return x + nn.Dense(x.shape[-1])(y), None


class Scanned(nn.Module):
    """Rematerialised layers under ``nn.scan``, as many as they are wide."""

    axis: int = 0

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
            length=8,
        )
        x, _ = layers(8)(nn.Dense(8)(x), None)
        return nn.Dense(2)(x)


class Vmapped(nn.Module):
    """An ensemble of layers whose parameters are stacked along the last axis."""

    @nn.compact
    def __call__(self, x):
        ensemble = nn.vmap(
            nn.Dense,
            variable_axes={"params": -1},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=5,
        )
        x = nn.relu(ensemble(14)(nn.relu(nn.Dense(9)(x))))
        return nn.Dense(3)(x.sum(0))


class Attention(nn.Module):
    """Flax's own attention and a feed-forward layer around a residual stream."""

    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(4, qkv_features=24)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(20)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class OwnAttention(nn.Module):
    """Attention that reshapes by its own fields."""

    heads: int = 4
    head_dim: int = 6

    @nn.compact
    def __call__(self, x):
        batch, length, width = x.shape
        shape = (batch, length, self.heads, self.head_dim)
        q, k, v = (nn.Dense(self.heads * self.head_dim)(x).reshape(shape) for _ in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * self.head_dim**-0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return x + nn.Dense(width)(mixed.reshape(batch, length, self.heads * self.head_dim))


class Stack(nn.Module):
    """Layers of the same configuration that end up at different widths."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = OwnAttention(4, 6)(x)
        return x


class OwnParameters(nn.Module):
    """Makes its parameters from a field."""

    hidden: int = 14

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.normal()
        w = self.param("w", init, (x.shape[-1], self.hidden))
        return nn.relu(x @ w) @ self.param("v", init, (self.hidden, 3))


class HardCoded(nn.Module):
    """Fixes a width in its code."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.normal()
        w = self.param("w", init, (x.shape[-1], 14))
        return nn.relu(x @ w) @ self.param("v", init, (14, 3))


class Outer(nn.Module):
    """Holds a module with a fixed width."""

    @nn.compact
    def __call__(self, x):
        return HardCoded(name="inner")(x)


class Recurrent(nn.Module):
    cell: Callable[..., Any] = nn.OptimizedLSTMCell

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.cell(10, param_dtype=x.dtype))(x))


class Grouped(nn.Module):
    """Depthwise and grouped convolution, GroupNorm without parameters, transposed convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (1, 1))(x))
        x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        x = nn.relu(nn.Conv(16, (3, 3), feature_group_count=4)(x))
        x = nn.GroupNorm(num_groups=4, use_bias=False, use_scale=False)(x)
        x = nn.ConvTranspose(6, (3, 3), transpose_kernel=True)(nn.relu(x))
        return nn.ConvTranspose(2, (2, 2))(nn.relu(x))


class Einsums(nn.Module):
    """`nn.Einsum` and `nn.DenseGeneral` with several features."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Einsum((x.shape[-1], 9), "...a,ab->...b")(x))
        x = nn.relu(nn.DenseGeneral((3, 5))(x))
        return nn.DenseGeneral(2, axis=(-2, -1))(x)


class PlainConfig:
    """A configuration as other libraries write them: an object with attributes."""

    def __init__(self):
        self.hidden_size = 24
        self.num_heads = 4


class PlainlyConfigured(nn.Module):
    """Attention set up from an object's attributes; every layer may end at other widths."""

    config: Any

    def setup(self):
        size = self.config.hidden_size
        self.head_dim = size // self.config.num_heads
        self.query, self.key, self.value = (nn.Dense(size) for _ in range(3))
        self.out = nn.Dense(16)

    def __call__(self, x):
        shape = (*x.shape[:-1], self.config.num_heads, self.head_dim)
        q, k, v = (layer(x).reshape(shape) for layer in (self.query, self.key, self.value))
        mixed = nn.dot_product_attention(q, k, v)
        return x + self.out(mixed.reshape(*x.shape[:-1], -1))


class Tied(nn.Module):
    """An embedding that is its own output layer, around layers under ``nn.jit``."""

    def setup(self):
        self.embed = nn.Embed(20, 12)
        self.block = nn.jit(Block)(10)

    def __call__(self, tokens):
        x, _ = self.block(self.embed(tokens))
        return self.embed.attend(x)


class Wrapped(nn.Module):
    """Layers inside Flax's own wrappers."""

    @nn.compact
    def __call__(self, x):
        cells = (nn.RNN(nn.GRUCell(size, param_dtype=x.dtype)) for size in (6, 8))
        x = nn.Bidirectional(*cells)(x)
        x = nn.WeightNorm(nn.Dense(9), feature_axes=None)(x)
        return nn.Dense(3)(nn.PReLU()(x))


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its inputs, how it is expected to be rebuilt, and options of discovery."""

    model: nn.Module
    inputs: tuple[np.ndarray, ...]
    form: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


_RNG = np.random.default_rng(0)
IMAGES = _RNG.standard_normal((2, 8, 8, 3))
VECTORS = _RNG.standard_normal((2, 7))
SEQUENCES = _RNG.standard_normal((2, 5, 16))
TOKENS = np.asarray([[1, 2, 3], [4, 5, 19]])

SEQUENTIAL = nn.Sequential((nn.Dense(8), nn.relu, nn.Dense(3)))
CASES = {
    "residual": Case(ResidualNet(), (IMAGES,), "widths"),
    "vgg": Case(VGGNet(), (IMAGES,), "widths"),
    "configured": Case(Configured(), (VECTORS,), "configuration"),
    "sequential": Case(SEQUENTIAL, (VECTORS,), "configuration"),
    "setup": Case(SetUp(), (TOKENS,), "widths"),
    "scanned": Case(Scanned(), (VECTORS,), "widths"),
    "scanned_along_1": Case(Scanned(1), (VECTORS,), "widths"),
    "vmapped": Case(Vmapped(), (VECTORS,), "widths"),
    "heads": Case(Attention(), (SEQUENCES,), "widths"),
    "head_dim": Case(Attention(), (SEQUENCES,), "widths", {"attention": "head_dim"}),
    "own_attention": Case(OwnAttention(), (SEQUENCES,), "configuration"),
    "stack": Case(Stack(), (SEQUENCES,), "widths"),
    "own_parameters": Case(OwnParameters(), (VECTORS,), "configuration"),
    "lstm": Case(Recurrent(nn.LSTMCell), (SEQUENCES,), "widths"),
    "optimized_lstm": Case(Recurrent(), (SEQUENCES,), "widths"),
    "gru": Case(Recurrent(nn.GRUCell), (SEQUENCES,), "widths"),
    "simple_cell": Case(Recurrent(nn.SimpleCell), (SEQUENCES,), "widths"),
    "plain_config": Case(PlainlyConfigured(PlainConfig()), (SEQUENCES,), "configuration"),
    "tied": Case(Tied(), (TOKENS,), "widths"),
    "wrapped": Case(Wrapped(), (SEQUENCES,), "widths"),
    "grouped": Case(Grouped(), (IMAGES,), "widths"),
    "einsums": Case(Einsums(), (VECTORS,), "widths"),
}  # fmt: skip


def run(model, variables, *inputs, **options):
    """``model.apply``, compiled as one."""
    return jax.jit(lambda variables, *x: model.apply(variables, *x, **options))(variables, *inputs)


def relative(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(a)).max())
