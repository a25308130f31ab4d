"""Parameter trees with hand-made ZIGs: convolutions with a residual stream, dense, attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.zigs.partition import Run, ZIGs
from tests.optim.handmade import handmade_zigs, plain_run


def conv_tree() -> tuple[dict, ZIGs]:
    """Two convolutions and a projection that add into one stream; one inner convolution."""
    shapes = {
        "stem": {"kernel": (3, 3, 2, 6), "bias": (6,)},
        "inner": {"kernel": (3, 3, 6, 5)},
        "norm": {"scale": (5,), "bias": (5,)},
        "outer": {"kernel": (1, 1, 5, 6)},
        "head": {"kernel": (6, 3), "bias": (3,)},
    }
    members = {
        "stream": [("stem/kernel", 3), ("stem/bias", 0), ("outer/kernel", 3)],
        "inner": [("inner/kernel", 3), ("norm/scale", 0), ("norm/bias", 0)],
    }
    dependents = {
        "stream": [("inner/kernel", 2), ("head/kernel", 0)],
        "inner": [("outer/kernel", 2)],
    }
    return _with_zigs(shapes, members, dependents)


def dense_tree() -> tuple[dict, ZIGs]:
    """A perceptron whose second layer has units on half of its outputs only."""
    shapes = {
        "one": {"kernel": (4, 12), "bias": (12,)},
        "two": {"kernel": (12, 10), "bias": (10,)},
        "head": {"kernel": (10, 3)},
    }
    half = (plain_run(5, offset=3),)
    members = {
        "one": [("one/kernel", 1), ("one/bias", 0)],
        "two": [("two/kernel", 1, half), ("two/bias", 0, half)],
    }
    dependents = {"one": [("two/kernel", 0)], "two": [("head/kernel", 0, half)]}
    return _with_zigs(shapes, members, dependents)


def attention_tree() -> tuple[dict, ZIGs]:
    """Attention with Q and K by head-dimension index, V and output by head, and a fused layer."""
    heads, depth, width = 3, 4, 6
    shapes = {
        "query": {"kernel": (width, heads, depth), "bias": (heads, depth)},
        "key": {"kernel": (width, heads * depth), "bias": (heads * depth,)},
        "value": {"kernel": (width, heads, depth), "bias": (heads, depth)},
        "out": {"kernel": (heads, depth, width), "bias": (width,)},
        "fused": {"kernel": (width, 3 * heads * depth)},
        "woven": {"kernel": (width, 2 * heads * depth)},
    }
    by_depth = (Run(0, (heads, depth), (depth, 1), 1),)
    parts = [(Run(i * heads * depth, (heads, depth), (depth, 1), 0),) for i in range(3)]
    even, odd = ((Run(i, (heads, depth), (2 * depth, 2), 0),) for i in range(2))
    members = {
        "depth": [
            ("query/kernel", 2),
            ("query/bias", 1),
            ("key/kernel", 1, by_depth),
            ("key/bias", 0, by_depth),
        ],
        "heads": [("value/kernel", 1), ("value/bias", 0)],
        "fused": [("fused/kernel", 1, parts[0]), ("fused/kernel", 1, parts[2])],
        "middle": [("fused/kernel", 1, parts[1])],
        "even": [("woven/kernel", 1, even)],
        "odd": [("woven/kernel", 1, odd)],
    }
    return _with_zigs(shapes, members, {"heads": [("out/kernel", 0)]})


TREES = {"conv": conv_tree, "dense": dense_tree, "attention": attention_tree}


def random_like(params, seed: int, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), params)


def _with_zigs(shapes, members, dependents) -> tuple[dict, ZIGs]:
    params = jax.tree.map(
        lambda shape: jnp.zeros(shape), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    return random_like(params, seed=0), handmade_zigs(params, members, dependents)
