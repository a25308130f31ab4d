"""No counterexample: whatever the network, narrowed equals masked."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.prune.narrow import narrow
from tests.zigs.random_networks import Network, networks
from tests.zigs.test_structures import random_params, worst_difference, zero_half


@given(networks(), st.booleans(), st.sampled_from(["heads", "head_dim"]), st.integers(0, 9))
def test_narrowed_equals_masked(network: Network, narrow_only: bool, attention: str, seed: int):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 4, 3)))
        params = random_params(network.shapes, seed)
        zigs = oto_jax.find_zigs(network, params, x, narrow_only=narrow_only, attention=attention)
        if not zigs.num_groups:
            return
        masked = jax.tree.map(jnp.asarray, zero_half(params, zigs, seed, whole=0.2))
        slim_fn, slim = narrow(network, masked, zigs)
        expected = jax.jit(network)(masked, x)
        found = jax.jit(slim_fn)(slim, x)
        assert worst_difference(expected, found) <= 1e-9, zigs
