"""Random networks for Hypothesis: a soup of layers, rearrangements and cross connections.

Every tensor is (batch, length, channels). A network is a list of steps; each step is a function of
(params, earlier tensors) that returns the next tensor. Nothing is filtered for being sensible: what
cannot be pruned has to be blocked, and what is not blocked has to be exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from hypothesis import strategies as st
from jax import lax

Tensors = list[Any]
Step = Callable[[dict[str, Any], Tensors], Any]

ACTIVATIONS = (jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.sigmoid, jnp.square, jnp.cos)


@dataclasses.dataclass(eq=False)
class Network:
    shapes: dict[str, tuple[int, ...]]
    steps: list[Step]
    widths: list[int]
    names: list[str]

    def __call__(self, params: dict[str, Any], x: Any) -> Any:
        tensors = [x]
        for step in self.steps:
            tensors.append(step(params, tensors))
        out = jnp.tensordot(tensors[-1], params["out"], 1)
        return out, jnp.tensordot(tensors[-2], params["aside"], 1)

    def __repr__(self) -> str:
        return f"Network({' '.join(self.names)})"


class Builder:
    """Collects parameters and steps."""

    def __init__(self, draw: Callable[..., Any], channels: int) -> None:
        self.draw = draw
        self.net = Network({}, [], [channels], ["input"])

    def param(self, *shape: int) -> str:
        name = f"w{len(self.net.shapes):02d}"
        self.net.shapes[name] = shape
        return name

    def add(self, name: str, width: int, step: Step) -> None:
        self.net.steps.append(step)
        self.net.widths.append(width)
        self.net.names.append(f"{name}:{width}")

    @property
    def width(self) -> int:
        return self.net.widths[-1]

    def pick(self, options: Any) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def earlier(self, width: int | None = None) -> int | None:
        found = [i for i, w in enumerate(self.net.widths) if width is None or w == width]
        return self.pick(found) if found else None


def dense(b: Builder) -> None:
    width = b.pick([3, 4, 6, 8])
    w, bias = b.param(b.width, width), b.param(width)
    act = b.pick(ACTIVATIONS)
    b.add("dense", width, lambda p, t: act(jnp.tensordot(t[-1], p[w], 1) + p[bias][None, None]))


def convolution(b: Builder) -> None:
    groups = b.pick([g for g in (1, 2, 3, b.width) if b.width % g == 0])
    width = groups * b.pick([1, 2, 3])
    w = b.param(3, b.width // groups, width)
    b.add("conv", width, lambda p, t: jax.nn.relu(lax.conv_general_dilated(
        t[-1], p[w], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups)))  # fmt: skip


def residual(b: Builder) -> None:
    c, h = b.width, b.pick([2, 5])
    v, w = b.param(c, h), b.param(h, c)
    b.add("residual", c, lambda p, t: t[-1] + jnp.tensordot(
        jax.nn.relu(jnp.tensordot(t[-1], p[v], 1)), p[w], 1))  # fmt: skip


def norm(b: Builder) -> None:
    kind, scale, bias = b.pick(["batch", "layer", "rms"]), b.param(b.width), b.param(b.width)
    axes = (0, 1) if kind == "batch" else -1

    def step(p: dict[str, Any], t: Tensors) -> Any:
        x = t[-1]
        mean = 0 if kind == "rms" else jnp.mean(x, axes, keepdims=True)
        var = jnp.mean(x * x, axes, keepdims=True) - mean * mean
        return (x - mean) * lax.rsqrt(var + 1e-3) * p[scale][None, None] + p[bias][None, None]

    b.add(kind + "_norm", b.width, step)


def add_earlier(b: Builder) -> None:
    i = b.earlier(b.width)
    assert i is not None
    op = b.pick([jnp.add, jnp.multiply, jnp.maximum, jnp.subtract])
    b.add(op.__name__ + f"@{i}", b.width, lambda p, t: op(t[-1], t[i]))


def concatenate_earlier(b: Builder) -> None:
    i = b.earlier()
    assert i is not None
    if b.width + b.net.widths[i] <= 16:
        width = b.width + b.net.widths[i]
        b.add(f"concat@{i}", width, lambda p, t: jnp.concatenate([t[-1], t[i]], -1))


def gate(b: Builder) -> None:
    if b.width % 2 == 0:
        act = b.pick(ACTIVATIONS)

        def step(p: dict[str, Any], t: Tensors) -> Any:
            u, v = jnp.split(t[-1], 2, -1)
            return u * act(v)

        b.add("gate", b.width // 2, step)


def cut_channels(b: Builder) -> None:
    low = b.draw(st.integers(0, b.width - 1))
    high = b.draw(st.integers(low + 1, b.width))
    stride = b.pick([1, 1, 2])
    b.add("slice", -(-(high - low) // stride), lambda p, t: t[-1][..., low:high:stride])


def rearrange(b: Builder) -> None:
    kind = b.pick(["shuffle", "roll", "flip", "swap_halves", "repeat", "tile", "pad"])
    c = b.width
    groups = b.pick([g for g in (1, 2, 3, 4) if c % g == 0])
    half = c // 2

    def shuffle(x: Any) -> Any:
        n, length = x.shape[:2]
        return x.reshape(n, length, groups, c // groups).swapaxes(2, 3).reshape(n, length, c)

    steps = {
        "shuffle": (c, shuffle),
        "roll": (c, lambda x: jnp.roll(x, 1, -1)),
        "flip": (c, lambda x: x[..., ::-1]),
        "swap_halves": (c, lambda x: jnp.concatenate([x[..., half:], x[..., :half]], -1)),
        "repeat": (2 * c, lambda x: jnp.repeat(x, 2, -1)),
        "tile": (2 * c, lambda x: jnp.tile(x, (1, 1, 2))),
        "pad": (c + 3, lambda x: jnp.pad(x, ((0, 0), (0, 0), (1, 2)))),
    }
    width, fn = steps[kind]
    if width <= 16:
        b.add(kind, width, lambda p, t: fn(t[-1]))


def mix_channels(b: Builder) -> None:
    kind = b.pick(["softmax", "cumsum", "sum", "max", "sort", "center"])
    steps = {
        "softmax": lambda x: jax.nn.softmax(x, -1),
        "cumsum": lambda x: jnp.cumsum(x, -1),
        "sum": lambda x: x * jnp.sum(x, -1, keepdims=True),
        "max": lambda x: x + jnp.max(x, -1, keepdims=True),
        "sort": lambda x: jnp.sort(x, -1),
        "center": lambda x: x - jnp.mean(x, -1, keepdims=True),
    }
    b.add(kind, b.width, lambda p, t: steps[kind](t[-1]))


def attention(b: Builder) -> None:
    heads, dim = b.pick([2, 3]), b.pick([2, 4])
    shared = b.pick([1, heads])
    q, k, v = (
        b.param(b.width, heads * dim),
        b.param(b.width, shared * dim),
        b.param(b.width, shared * dim),
    )
    o = b.param(heads * dim, b.width)

    def step(p: dict[str, Any], t: Tensors) -> Any:
        n, length, _ = t[-1].shape
        query = jnp.tensordot(t[-1], p[q], 1).reshape(n, length, heads, dim)
        key = jnp.tensordot(t[-1], p[k], 1).reshape(n, length, shared, dim)
        value = jnp.tensordot(t[-1], p[v], 1).reshape(n, length, shared, dim)
        key, value = (jnp.repeat(a, heads // shared, 2) for a in (key, value))
        scores = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) * 0.5, -1)
        out = jnp.einsum("bhqk,bkhd->bqhd", scores, value).reshape(n, length, heads * dim)
        return t[-1] + jnp.tensordot(out, p[o], 1)

    b.add("attention", b.width, step)


def recurrence(b: Builder) -> None:
    c, h = b.width, b.pick([3, 4])
    i, r = b.param(c, h), b.param(h, h)

    def step(p: dict[str, Any], t: Tensors) -> Any:
        def cell(carry: Any, x: Any) -> Any:
            carry = jnp.tanh(jnp.tensordot(x, p[i], 1) + jnp.tensordot(carry, p[r], 1))
            return carry, carry

        first = jnp.zeros((t[-1].shape[0], h), t[-1].dtype)
        return lax.scan(cell, first, t[-1].swapaxes(0, 1))[1].swapaxes(0, 1)

    b.add("rnn", h, step)


def reuse(b: Builder) -> None:
    square = [n for n, s in b.net.shapes.items() if s == (b.width, b.width)]
    w = b.pick(square) if square else b.param(b.width, b.width)
    transpose = b.draw(st.booleans())
    b.add("reuse", b.width, lambda p, t: jax.nn.relu(
        jnp.tensordot(t[-1], p[w].T if transpose else p[w], 1)))  # fmt: skip


LAYERS = (dense, convolution, residual, norm, attention, recurrence, reuse, gate)
TANGLES = (add_earlier, concatenate_earlier, cut_channels, rearrange, mix_channels)


@st.composite
def networks(draw: Callable[..., Any], max_steps: int = 8) -> Network:
    """A random network whose last tensors are read out by dense layers."""
    b = Builder(draw, channels=3)
    for _ in range(draw(st.integers(2, max_steps))):
        draw(st.sampled_from(LAYERS + LAYERS + TANGLES))(b)
    if len(b.net.widths) < 2:
        dense(b)
    b.net.shapes["out"] = (b.net.widths[-1], 2)
    b.net.shapes["aside"] = (b.net.widths[-2], 2)
    return b.net
