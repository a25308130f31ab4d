"""Faithful mode against the original's rules, written independently in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from oto_jax.zigs.partition import leaves_by_path
from tests.optim.numpy_hspg import NumpyHSPG, entries_of
from tests.optim.trees import TREES, random_like

STEPS, SWITCH = 200, 60


def rate_at(step):
    return 0.05 * 0.1 ** (step // 120)


def jax_trajectory(params, zigs, centre, noise, **settings):
    """Parameters after every step on a noisy quadratic."""
    schedule = optax.piecewise_constant_schedule(0.05, {120: 0.1})
    tx = oto_jax.hspg(schedule, zigs, start_step=SWITCH, **settings)

    @jax.jit
    def step(params, state, noise):
        grads = jax.tree.map(lambda x, c, e: 0.1 * (x - c) + e, params, centre, noise)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = tx.init(params), []
    for t in range(STEPS):
        params, state = step(params, state, jax.tree.map(lambda e, t=t: e[t], noise))
        trajectory.append({"/".join(k): np.asarray(v) for k, v in leaves_by_path(params).items()})
    return trajectory


def numpy_trajectory(params, zigs, centre, noise, **settings):
    flat = lambda tree: {"/".join(k): np.array(v) for k, v in leaves_by_path(tree).items()}  # noqa: E731
    x, c, e = flat(params), flat(centre), flat(noise)
    masks = {k: (m, x[k].shape) for k, m in flat(zigs.masks).items()}
    rule = NumpyHSPG(entries_of(masks, zigs.spaces), start_step=SWITCH, **settings)
    trajectory = []
    for t in range(STEPS):
        grads = {k: 0.1 * (x[k] - c[k]) + e[k][t] for k in x}
        rule.step(x, grads, rate_at(t))
        trajectory.append({k: v.copy() for k, v in x.items()})
    return trajectory


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", TREES)
def test_200_steps_equal_the_original_rules(name, momentum):
    with jax.enable_x64(True):
        params, zigs = TREES[name]()
        centre = random_like(params, 1, scale=0.1)
        noise = jax.tree.map(
            lambda x: (
                0.3 * jnp.asarray(np.random.default_rng(x.size).normal(size=(STEPS, *x.shape)))
            ),
            params,
        )
        lmbda = 1.0
        epsilon = {s.name: (0.95, 0.5, 0.0)[i % 3] for i, s in enumerate(zigs.spaces)}
        upper = {s.name: (1.0, 0.7)[i % 2] for i, s in enumerate(zigs.spaces)}
        ours = jax_trajectory(
            params,
            zigs,
            centre,
            noise,
            lmbda=lmbda,
            momentum=momentum,
            epsilon=epsilon,
            upper_group_sparsity=upper,
        )
        theirs = numpy_trajectory(
            params,
            zigs,
            centre,
            noise,
            lmbda=lmbda,
            momentum=momentum,
            epsilon=epsilon,
            upper=upper,
        )
    for a, b in zip(ours, theirs, strict=True):
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=0, atol=1e-12)
    zeros = [sum((x == 0).sum() for x in tree.values()) for tree in ours]
    assert zeros[SWITCH - 1] == 0
    assert 0 < zeros[-1] < sum(x.size for x in ours[-1].values())
    print(name, momentum, zeros[SWITCH], zeros[-1])
