"""Laws of the half-space projection: exact zeros, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.optim import norms
from oto_jax.optim.zeros import projection_states
from tests.optim.handmade import handmade_zigs
from tests.optim.trees import TREES, dense_tree, random_like

seeds = st.integers(0, 10_000)


def zero_groups(zigs, params):
    """Per space, which groups are bitwise zero."""
    counts = norms.nonzero_counts(zigs, norms.grouped_leaves(zigs, params))
    return {name: np.asarray(count) == 0 for name, count in counts.items()}


def assert_same_flags(a, b):
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@functools.cache
def projection(name, epsilon, learning_rate):
    params, zigs = TREES[name]()
    tx = oto_jax.project_half_space(zigs, epsilon=epsilon, learning_rate=learning_rate)
    return params, zigs, tx, jax.jit(tx.update)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("update_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("learning_rate", [None, 0.7])
@given(seed=seeds)
def test_projected_groups_are_bitwise_zero(param_dtype, update_dtype, learning_rate, seed):
    params, zigs, tx, update = projection("conv", 0.9, learning_rate)
    params = random_like(params, seed)
    params = jax.tree.map(lambda x: x.astype(param_dtype), params)
    direction = jax.tree.map(
        lambda x, e: (x.astype(jnp.float32) * (-0.5 if learning_rate is None else 0.5) + e).astype(
            update_dtype
        ),
        params,
        random_like(jax.tree.map(lambda x: x.astype(jnp.float32), params), seed + 1),
    )
    updates, state = update(direction, tx.init(params), params)
    assert all(u.dtype == param_dtype for u in jax.tree.leaves(updates))
    after = optax.apply_updates(params, updates)
    assert_same_flags(zero_groups(zigs, after), state.zero)
    assert sum(np.sum(z) for z in state.zero.values()) > 0
    for x in jax.tree.leaves(after):  # Positive zeros: no trace of the sign of what was there.
        assert not np.any(np.signbit(np.asarray(x, np.float32)) & (np.asarray(x) == 0))


@given(seed=seeds)
def test_updates_of_surviving_groups_are_untouched(seed):
    params, zigs, tx, update = projection("attention", 0.5, None)
    params, direction = random_like(params, seed), random_like(params, seed + 1)
    updates, state = update(direction, tx.init(params), params)
    zero = {name: x.astype(jnp.float32) for name, x in state.zero.items()}
    for path, u in norms.leaves_by_path(updates).items():
        inside = np.zeros(u.shape, bool)
        if path in zigs.members_by_path:
            flags = norms.spread(zigs, zero, path, u.shape, 0.0)
            inside = np.broadcast_to(np.asarray(flags) > 0, u.shape)
        before = norms.leaves_by_path(direction)[path]
        np.testing.assert_array_equal(np.asarray(u)[~inside], np.asarray(before)[~inside])


@given(seed=seeds)
def test_projection_is_idempotent_and_zero_groups_stay_zero(seed):
    params, zigs, tx, update = projection("dense", 0.9, None)
    params = random_like(params, seed)
    updates, state = update(random_like(params, seed + 1), tx.init(params), params)
    params = optax.apply_updates(params, updates)
    nothing = jax.tree.map(jnp.zeros_like, params)
    again, _ = update(nothing, state, params)
    for u in jax.tree.leaves(again):
        np.testing.assert_array_equal(u, 0)
    before = zero_groups(zigs, params)
    updates, state = update(random_like(params, seed + 2), state, params)
    after = zero_groups(zigs, optax.apply_updates(params, updates))
    assert all(np.all(after[name] >= before[name]) for name in before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@given(seed=seeds)
def test_updates_that_are_not_finite_never_put_a_group_to_zero(bad, seed):
    params, _, tx, update = projection("conv", 0.9, None)
    rng = np.random.default_rng(seed)
    params = random_like(params, seed)
    poisoned = rng.integers(0, 6)
    direction = jax.tree.map(lambda x: -x, params)  # Everything would be projected.
    direction["outer"]["kernel"] = direction["outer"]["kernel"].at[0, 0, 2, poisoned].set(bad)
    _, state = update(direction, tx.init(params), params)
    expected = np.ones(6, bool)
    expected[poisoned] = False
    np.testing.assert_array_equal(state.zero["stream"], expected)


def test_nothing_is_projected_before_the_start_step():
    params, zigs = dense_tree()
    tx = oto_jax.project_half_space(zigs, start_step=2)
    state = tx.init(params)
    for expected in [0, 0, zigs.num_groups]:
        _, state = tx.update(jax.tree.map(lambda x: -2 * x, params), state, params)
        assert sum(int(np.sum(z)) for z in state.zero.values()) == expected


def test_strict_inequality_keeps_a_group_on_the_edge():
    params = {"w": jnp.array([[1.0, 1.0], [1.0, 1.0]])}
    zigs = handmade_zigs(params, {"w": [("w", 1)]})
    direction = {"w": jnp.array([[-1.0, -1.0], [-1.0, -1.0 - 1e-6]])}  # Trials (0, 0), (0, -1e-6).
    _, state = oto_jax.project_half_space(zigs).update(direction, *_start(zigs, params))
    assert state.zero["w"].tolist() == [False, True]


def _start(zigs, params):
    return oto_jax.project_half_space(zigs).init(params), params


@pytest.mark.parametrize(
    "upper, expected", [(0.0, 0), (0.29, 2), (0.3, 3), (0.5, 5), (0.999, 9), (1.0, 10)]
)
def test_cap_holds_at_once_and_takes_the_deepest(upper, expected):
    params = {"w": jnp.ones((3, 10))}
    zigs = handmade_zigs(params, {"w": [("w", 1)]})
    depth = jnp.array([3, 1, 4, 1.5, 9, 2.6, 5.3, 5.8, 9.7, 9.3])
    tx = oto_jax.project_half_space(zigs, upper_group_sparsity=upper)
    state = tx.init(params)
    for _ in range(3):  # More than the cap would cross at every step.
        updates, state = tx.update({"w": -(1 + depth)[None] * params["w"]}, state, params)
        params = optax.apply_updates(params, updates)
        zero = np.asarray(state.zero["w"])
        assert zero.sum() == expected
        np.testing.assert_array_equal(np.flatnonzero(zero), np.sort(np.argsort(-depth)[:expected]))


def test_cap_leaves_groups_alone_that_are_zero_already():
    params = {"w": jnp.ones((3, 10)).at[:, :4].set(0)}
    zigs = handmade_zigs(params, {"w": [("w", 1)]})
    tx = oto_jax.project_half_space(zigs, upper_group_sparsity=0.2)
    _, state = tx.update({"w": -2 * params["w"]}, tx.init(params), params)
    assert state.zero["w"].sum() == 4


def test_adaptive_epsilon_grows_while_below_the_bound():
    params = {"a": jnp.ones((2, 10)), "b": jnp.ones((2, 10))}
    zigs = handmade_zigs(params, {"a": [("a", 1)], "b": [("b", 1)]})
    tx = oto_jax.project_half_space(
        zigs,
        start_step=5,
        epsilon={"a": oto_jax.AdaptiveEpsilon(start=0.1, increase=0.3, every=10, limit=0.9)},
        upper_group_sparsity={"a": 0.5},
    )
    state, seen = tx.init(params), []
    shrink = np.linspace(0.05, 0.95, 10, dtype=np.float32)  # Group i keeps the part shrink[i].
    for _ in range(60):
        updates, state = tx.update(
            {"a": (shrink - 1)[None] * params["a"], "b": jnp.zeros((2, 10))}, state, params
        )
        seen.append((round(float(state.epsilon["a"]), 3), int(state.zero["a"].sum())))
        params["b"] = params["b"] + updates["b"]
        dead = np.asarray(state.zero["a"])
        params["a"] = jnp.where(jnp.asarray(dead)[None, :], 0.0, params["a"])
    assert list(state.epsilon) == ["a"]
    assert seen[4] == (0.1, 0)
    assert seen[5] == seen[14] == (0.1, 1)
    assert seen[15] == seen[24] == (0.4, 4)
    assert seen[25] == seen[59] == (0.7, 5)  # At the bound it stops growing.


def test_epsilon_and_lambda_take_schedules_and_globs():
    params, zigs = TREES["attention"]()
    tx = oto_jax.hspg(
        lambda t: 0.1 / (1 + t),
        zigs,
        lmbda=lambda t: 1e-3 * t,
        epsilon={"heads": 0.5, "*e*": lambda t: jnp.where(t < 2, 0.0, 0.99)},
    )
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        _, state = update(jax.tree.map(lambda x: 0.05 * x, params), state, params)
    (projection_state,) = projection_states(state)
    deaths = {name: int(z.sum()) for name, z in projection_state.zero.items()}
    assert deaths == {"depth": 0, "heads": 0, "fused": 0, "middle": 0, "even": 0, "odd": 0}
    _, state = update(jax.tree.map(lambda x: 0.5 * x, params), state, params)
    (projection_state,) = projection_states(state)
    deaths = {name: int(z.sum()) for name, z in projection_state.zero.items()}
    assert deaths == {"depth": 4, "heads": 0, "fused": 3, "middle": 3, "even": 3, "odd": 0}


@pytest.mark.parametrize(
    "argument, value",
    [
        ("learning_rate", -0.1), ("learning_rate", np.nan), ("lmbda", -1e-3), ("lmbda", np.inf),
        ("lmbda", "much"), ("epsilon", 1.0), ("epsilon", -0.1), ("epsilon", {"nowhere": 0.5}),
        ("epsilon", {"one": 1.5}), ("momentum", 1.0), ("momentum", np.nan), ("start_step", -1),
        ("upper_group_sparsity", 1.1), ("upper_group_sparsity", {"*": -0.1}),
        ("upper_group_sparsity", {"three": 0.5}), ("upper_group_sparsity", lambda step: 0.5),
        ("start_step", 0.1 * 55), ("start_step", lambda step: 3), ("momentum", lambda step: 0.9),
        ("lmbda", "0.1"), ("epsilon", {0: 0.5}), ("target_steps", 10),
    ],
)  # fmt: skip
def test_bad_hyperparameters_are_named(argument, value):
    _, zigs = dense_tree()
    settings = {"learning_rate": 0.1, "zigs": zigs, argument: value}
    with pytest.raises(oto_jax.HyperparameterError, match=argument):
        oto_jax.hspg(**settings)


@pytest.mark.parametrize(
    "settings", [{"start": 1.0}, {"increase": -1}, {"every": 0}, {"every": 2.5}, {"limit": 2}]
)
def test_bad_adaptive_epsilons_are_named(settings):
    with pytest.raises(oto_jax.HyperparameterError, match=next(iter(settings))):
        oto_jax.AdaptiveEpsilon(**settings)


def test_parameters_are_required():
    params, zigs = dense_tree()
    for tx in (oto_jax.add_group_lasso(1e-3, zigs), oto_jax.project_half_space(zigs)):
        with pytest.raises(ValueError, match="not passing `params`"):
            tx.update(params, tx.init(params))


def test_wrong_parameters_are_named():
    params, zigs = dense_tree()
    tx = oto_jax.hspg(0.1, zigs)
    other = {**params, "two": {**params["two"], "kernel": jnp.ones((3, 3))}}
    with pytest.raises(oto_jax.ZIGMismatchError, match="two/kernel"):
        tx.update(other, tx.init(params), other)


def test_zigs_without_groups_are_refused():
    params, _ = dense_tree()
    with pytest.raises(oto_jax.UnprunableModelError, match=r"zigs\.blocked"):
        oto_jax.hspg(0.1, handmade_zigs(params, {}))
