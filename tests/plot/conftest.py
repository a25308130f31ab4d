"""Axes without pyplot, and a small network with groups that are zero."""

import functools

import jax
import jax.numpy as jnp
import matplotlib
import pytest
from matplotlib.figure import Figure

import oto_jax

matplotlib.use("Agg")


@pytest.fixture
def ax():
    """Axes of a figure that pyplot does not know of."""
    return Figure(figsize=(8, 4), layout="constrained").add_subplot()


def network(params, x):
    hidden = jnp.maximum(x @ params["a"] + params["bias"][None], 0)
    return jnp.maximum(hidden @ params["b"], 0) @ params["c"]


@pytest.fixture(scope="session")
def full():
    """Parameters of two hidden layers of 6 and 9 units, no group zero."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"a": (4, 6), "b": (6, 9), "bias": (6,), "c": (9, 2)}
    return {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


@pytest.fixture(scope="session")
def zigs(full):
    return oto_jax.find_zigs(network, full, jnp.ones((1, 4)))


@pytest.fixture(scope="session")
def zeroed(full, zigs):
    """From group numbers to the parameters with these groups zero."""

    def put_to_zero(groups):
        def clear(array, numbers):
            gone = functools.reduce(jnp.logical_or, [numbers == g for g in groups], numbers < -1)
            return jnp.where(gone, 0.0, array)

        return jax.tree.map(clear, full, zigs.masks)

    return put_to_zero
