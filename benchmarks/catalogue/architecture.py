"""`Architecture`: a model of some package, how to build it, and random values for its arrays."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model at hand: a Flax module or a function of its variables, and what it is called with.

    ``variables`` are arrays or shapes; None for an NNX model, which holds its own.
    """

    model: Any
    variables: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model that the library is tried on.

    Attributes:
      name: what people call it.
      package: the distribution that its code comes from; ``oto_jax`` for this repository's own.
      build: makes it, small, without weights.
      options: of `oto_jax.find_zigs`.
    """

    name: str
    package: str
    build: Callable[[], Subject]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def images(size: int = 64, batch: int = 2, channels: int = 3) -> Any:
    """The shape of a batch of square images, channels last."""
    return jax.ShapeDtypeStruct((batch, size, size, channels), np.float64)


def tokens(length: int = 8, batch: int = 2) -> Any:
    """The shape of a batch of token sequences."""
    return jax.ShapeDtypeStruct((batch, length), np.int32)


def linen(model: Any, *args: Any, **kwargs: Any) -> Subject:
    """A Linen module with the shapes that its ``init`` makes for the same call."""

    def init(*arrays: Any) -> Any:
        key = jax.random.key(0)
        given = iter(arrays)
        filled = [next(given) if is_array(a) else a for a in args]
        return model.init({"params": key, "dropout": key}, *filled, **kwargs)

    return Subject(model, doubled(jax.eval_shape(init, *filter(is_array, args))), args, kwargs)


def doubled(tree: Any) -> Any:
    """Shapes of the same tree with every floating-point array in float64."""

    def shape(leaf: Any) -> Any:
        is_float = jnp.issubdtype(leaf.dtype, np.floating)
        return jax.ShapeDtypeStruct(leaf.shape, np.float64 if is_float else leaf.dtype)

    return jax.tree_util.tree_map(shape, tree)


def is_array(value: Any) -> bool:
    """Whether an argument is an array or the shape of one."""
    return isinstance(value, jax.ShapeDtypeStruct | jax.Array | np.ndarray)


def random_like(tree: Any, seed: int) -> Any:
    """Random non-zero float64 values; variances are positive, integers stay as they are.

    Weights are normal with variance ``2 / fan_in`` (He et al., 2015), so that signals neither die
    nor explode in deep models; vectors are of magnitude 0.3 to 0.9 with either sign.
    """
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path).lower()
        if not jnp.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype) if _is_abstract(leaf) else leaf
        if re.search(r"(?<![a-z])var(iance)?(?![a-z])", name):
            return rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) < 2:
            return rng.uniform(0.3, 0.9, leaf.shape) * rng.choice([-1.0, 1.0], leaf.shape)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return rng.standard_normal(leaf.shape) * np.sqrt(2.0 / fan_in)

    return jax.tree_util.tree_map_with_path(fill, tree)


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def random_inputs(tree: Any, seed: int) -> Any:
    """Normal numbers for floats, zeros and ones for integers (token 0 and 1 are valid anywhere)."""
    rng = np.random.default_rng(seed)

    def fill(leaf: Any) -> Any:
        if not _is_abstract(leaf):
            return leaf
        if jnp.issubdtype(leaf.dtype, np.floating):
            return rng.standard_normal(leaf.shape)
        return rng.integers(0, 2, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map(fill, tree)


@contextmanager
def double_precision() -> Iterator[None]:
    """Let every model compute in float64, also one whose code says ``jnp.float32``."""
    single = jnp.float32
    jnp.float32 = jnp.float64
    try:
        with jax.enable_x64(True):
            yield
    finally:
        jnp.float32 = single
