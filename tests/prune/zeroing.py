"""Random variables, and groups of them set to zero."""

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.zigs.partition import ZIGs


def randomised(variables, seed=0):
    """Normal numbers everywhere, positive where they are a variance."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not jnp.issubdtype(leaf.dtype, np.floating):
            return leaf
        values = rng.standard_normal(leaf.shape) * (0.4 if leaf.ndim > 1 else 0.5)
        is_variance = "var" in jax.tree_util.keystr(path)
        return jnp.asarray(np.abs(values) + 0.5 if is_variance else values)

    return jax.tree_util.tree_map_with_path(draw, variables)


def random_groups(zigs: ZIGs, share=0.5, seed=0) -> np.ndarray:
    """Numbers of about ``share`` of the groups of each space, never all of one."""
    rng = np.random.default_rng(seed)
    chosen = [
        space.start + rng.choice(space.size, min(int(share * space.size), space.size - 1), False)
        for space in zigs.spaces
    ]
    return np.concatenate([np.arange(0), *chosen])


def zero_groups(params, zigs: ZIGs, groups):
    """The parameters with some groups at zero."""

    def zero(leaf, numbers):
        # On the host: XLA would compile this anew for every shape.
        leaf = np.asarray(leaf)
        return jnp.asarray(np.where(np.isin(numbers, groups), np.zeros_like(leaf), leaf))

    return jax.tree.map(zero, params, zigs.masks)


def half_zero(variables, zigs: ZIGs, share=0.5, seed=0):
    """Linen variables with a random share of each space's groups at zero."""
    groups = random_groups(zigs, share, seed)
    return {**variables, "params": zero_groups(variables["params"], zigs, groups)}
