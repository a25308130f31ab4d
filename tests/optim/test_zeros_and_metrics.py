"""`check_zeros` catches what loses zeros; `group_sparsity` counts them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from oto_jax.optim.zeros import revived_groups
from tests.optim.trees import TREES, conv_tree, dense_tree, random_like


def train(tx, params, steps=5):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(lambda x: 0.3 * x, params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("name", TREES)
def test_zeros_of_hspg_hold(name):
    params, zigs = TREES[name]()
    params, state = train(oto_jax.hspg(0.5, zigs, lmbda=1.0, epsilon=0.9), params)
    oto_jax.check_zeros(params, zigs, state)
    assert int(oto_jax.group_sparsity(params, zigs).zero_groups) > 0


def test_what_comes_after_the_projection_is_caught():
    params, zigs = conv_tree()
    tx = optax.chain(oto_jax.hspg(0.5, zigs, epsilon=0.9), optax.scale(0.5))
    params, state = train(tx, params)
    with pytest.raises(oto_jax.RevivedGroupsError, match="space 'stream'.*stem/kernel"):
        oto_jax.check_zeros(params, zigs, state)
    counts = jax.jit(lambda p, s: revived_groups(p, zigs, s))(params, state)
    assert sum(int(x.sum()) for x in counts.values()) > 0


def test_an_average_of_parameters_is_caught():
    params, zigs = conv_tree()
    ema = optax.ema(0.9, debias=False)
    trained, state = train(oto_jax.hspg(0.5, zigs, epsilon=0.9), params)
    averaged, _ = ema.update(trained, optax.EmaState(jnp.array(3), params))
    with pytest.raises(oto_jax.RevivedGroupsError):
        oto_jax.check_zeros(averaged, zigs, state)


def test_a_state_without_projection_is_refused():
    params, zigs = conv_tree()
    with pytest.raises(oto_jax.OTOError, match="no half-space projection"):
        oto_jax.check_zeros(params, zigs, optax.adam(0.1).init(params))


def test_a_state_of_other_spaces_is_refused_and_one_of_more_is_read():
    params, zigs = dense_tree()
    tx = oto_jax.hspg(0.1, zigs)
    _, state = tx.update(params, tx.init(params), params)
    first = dataclasses.replace(zigs, spaces=zigs.spaces[:1])
    oto_jax.check_zeros(params, first, state)
    renamed = [dataclasses.replace(space, name=f"other/{space.name}") for space in zigs.spaces]
    with pytest.raises(oto_jax.ZIGMismatchError, match="about the spaces"):
        oto_jax.check_zeros(params, dataclasses.replace(zigs, spaces=tuple(renamed)), state)


def test_group_sparsity_counts_zero_groups():
    params, zigs = conv_tree()
    params = jax.tree.map(jnp.ones_like, params)
    for path in [("stem", "kernel"), ("stem", "bias"), ("outer", "kernel")]:
        params[path[0]][path[1]] = params[path[0]][path[1]].at[..., :2].set(0)
    params["inner"]["kernel"] = params["inner"]["kernel"].at[..., 0].set(0)
    sparsity = jax.jit(oto_jax.group_sparsity, static_argnums=1)(params, zigs)
    assert int(sparsity.zero_groups) == 2
    np.testing.assert_allclose(sparsity.overall, 2 / 11)
    assert {k: round(float(v), 6) for k, v in sparsity.per_space.items()} == {
        "stream": round(2 / 6, 6),
        "inner": 0.0,
    }
    expected = 4 * np.sqrt(18 + 1 + 5) + 4 * np.sqrt(54 + 2) + np.sqrt(2)
    np.testing.assert_allclose(sparsity.regulariser, expected, rtol=1e-6)
    assert sparsity.smallest_ratio is None


def test_smallest_ratio_is_over_living_groups():
    params, zigs = conv_tree()
    tx = oto_jax.project_half_space(zigs, epsilon=0.2)
    part = {"stem": 0.5, "inner": 0.1, "norm": 0.1, "outer": 0.5, "head": 1.0}
    direction = {k: jax.tree.map(lambda x, k=k: (part[k] - 1) * x, params[k]) for k in params}
    _, state = tx.update(direction, tx.init(params), params)
    sparsity = oto_jax.group_sparsity(params, zigs, state)
    np.testing.assert_allclose(sparsity.smallest_ratio, 0.5, rtol=1e-6)


def test_group_sparsity_reads_abstract_and_replicated_parameters():
    params, zigs = conv_tree()
    shapes = jax.eval_shape(lambda p: oto_jax.group_sparsity(p, zigs), params)
    assert shapes.overall.shape == ()
    nan = jax.tree.map(lambda x: x * jnp.nan, random_like(params, 1))
    assert int(oto_jax.group_sparsity(nan, zigs).zero_groups) == 0
