"""Random numbers: keys stay whole, what is drawn has dimensions of its own.

A program narrowed by `oto_jax.narrow` draws at full width and keeps the surviving positions, so a
dropout mask is the same as in the full program.
"""

from __future__ import annotations

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Dims
from oto_jax.zigs.program import Node

DRAWS = ("random_bits", "random_gamma", "rng_uniform", "rng_bit_generator", "threefry2x32")
KEYS = (
    "random_seed",
    "random_split",
    "random_fold_in",
    "random_wrap",
    "random_unwrap",
    "random_clone",
)


def draw(node: Node) -> list[Dims]:
    """Random numbers: fresh dimensions."""
    for value in node.ins:
        for dim in value.dims:
            node.freeze(dim, "a random key")
    return [d.new_dims(shape) for shape in node.out_shapes]


def key(node: Node) -> list[Dims]:
    """Keys made from keys: frozen."""
    for value in node.ins:
        for dim in value.dims:
            node.freeze(dim, "a random key")
    return [tuple(node.frozen(n, "a random key") for n in shape) for shape in node.out_shapes]


RULES = {**dict.fromkeys(DRAWS, draw), **dict.fromkeys(KEYS, key)}
