"""What optax asks of every optimizer (see its ``contrib/_common_test.py``), asked of ours."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import oto_jax
from oto_jax.optim.zeros import projection_states
from tests.optim.trees import TREES, conv_tree, random_like

pytestmark = pytest.mark.usefixtures("small_as_large")  # That has more that can go wrong.

TARGET = {"target_group_sparsity": 0.5, "target_steps": 3}
RATE = 0.05


def around(base):
    """The two transformations around a base optimizer, as the guide writes it."""

    def make(learning_rate, zigs, **settings):
        return optax.chain(
            oto_jax.add_group_lasso(1e-2, zigs),
            base(learning_rate),
            oto_jax.project_half_space(zigs, epsilon=0.5, **settings),
        )

    return make


hspg = functools.partial(oto_jax.hspg, lmbda=1e-2, epsilon=0.5)
FACTORIES = {
    "hspg": hspg,
    "hspg momentum": functools.partial(hspg, momentum=0.9, start_step=1),
    "hspg cap": functools.partial(hspg, momentum=0.9, upper_group_sparsity=0.5),
    "hspg adaptive": functools.partial(hspg, epsilon=oto_jax.AdaptiveEpsilon(every=2)),
    "hspg target": functools.partial(oto_jax.hspg, momentum=0.9, **TARGET),
    "adamw": around(optax.adamw),
    "lamb": around(optax.lamb),
    "lion": around(optax.lion),
    "muon": around(optax.contrib.muon),
    "adamw target": functools.partial(around(optax.adamw), **TARGET),
}
every_optimizer = pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES.keys())
some_optimizers = pytest.mark.parametrize(
    "make",
    [FACTORIES[name] for name in ("hspg momentum", "hspg target", "adamw")],
    ids=["hspg", "target", "adamw"],
)


def gradient(params):
    """Of a quadratic around 0.1, so that groups come down towards zero."""
    return jax.tree.map(lambda x: (x - 0.1).astype(x.dtype), params)


def make_step(tx, **extra):
    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradient(params), state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def assert_trees_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def types(tree):
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype), tree)


@every_optimizer
def test_extra_arguments_one_compilation_and_stable_types(make, caplog):
    params, zigs = conv_tree()
    tx = make(RATE, zigs)
    step = make_step(tx, an_argument_that_nobody_expects=1)
    state = jax.jit(tx.init)(params)
    assert types(state) == types(tx.init(params))
    new_params, new_state = step(params, state)
    assert types(new_state) == types(state)
    assert types(new_params) == types(params)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        caplog.clear()
        step(new_params, new_state)
    assert not [r for r in caplog.records if re.search("Finished .* compilation", r.getMessage())]


@every_optimizer
def test_state_can_be_mapped_over_parameters(make):
    params, zigs = conv_tree()
    tx = make(RATE, zigs)
    state = tx.init(params)
    assert_trees_equal(optax.tree.map_params(tx, lambda x: x, state), state)
    names = optax.tree.map_params(
        tx, lambda _: "like a parameter", state, transform_non_params=lambda _: "other"
    )
    (projection,) = projection_states(names)
    assert set(jax.tree.leaves(projection)) == {"other"}


@every_optimizer
def test_abstract_initialisation(make):
    params, zigs = conv_tree()
    tx = make(RATE, zigs)
    shapes = jax.eval_shape(tx.init, params)
    state = tx.init(params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == types(state)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    jax.eval_shape(tx.update, abstract, shapes, abstract)


@some_optimizers
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_types_are_stable_under_cond(make, dtype):
    with jax.enable_x64(dtype == "float64"):
        params, zigs = conv_tree()
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        tx = make(RATE, zigs)
        state = tx.init(params)

        @jax.jit
        def step(params, state, flag):
            grads = gradient(params)
            updates, state = jax.lax.cond(
                flag, lambda: tx.update(grads, state, params), lambda: (grads, state)
            )
            return optax.apply_updates(params, updates), state

        for flag in (True, False, True):
            params, state = step(params, state, jnp.asarray(flag))
        assert all(x.dtype == dtype for x in jax.tree.leaves(params))


@every_optimizer
def test_updates_have_the_type_of_bfloat16_parameters(make):
    params, zigs = conv_tree()
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    tx = make(RATE, zigs)
    updates, _ = jax.jit(tx.update)(gradient(params), tx.init(params), params)
    assert all(u.dtype == jnp.bfloat16 for u in jax.tree.leaves(updates))


@some_optimizers
def test_schedules_equal_constants(make):
    params, zigs = conv_tree()
    constant, schedule = make(RATE, zigs), make(optax.constant_schedule(RATE), zigs)
    a, b = (params, constant.init(params)), (params, schedule.init(params))
    step_a, step_b = make_step(constant), make_step(schedule)
    for _ in range(4):
        a, b = step_a(*a), step_b(*b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), a[0], b[0])


@pytest.mark.parametrize("target", [{}, TARGET], ids=["faithful", "target"])
def test_hyperparameters_can_be_injected(target):
    params, zigs = conv_tree()
    settings = dict(
        learning_rate=RATE, zigs=zigs, lmbda=1e-2, epsilon=0.0, momentum=0.9, start_step=1, **target
    )
    plain = oto_jax.hspg(**settings)
    injected = optax.inject_hyperparams(oto_jax.hspg)(**settings)
    a, b = (params, plain.init(params)), (params, jax.jit(injected.init)(params))
    step_a, step_b = make_step(plain), make_step(injected)
    for _ in range(5):
        a, b = step_a(*a), step_b(*b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a[0], b[0])
    (ours,), (theirs,) = projection_states(a[1]), projection_states(b[1])
    assert_trees_equal(ours.zero, theirs.zero)
    oto_jax.check_zeros(b[0], zigs, b[1])
    b[1].hyperparams["learning_rate"] = jnp.asarray(0.0)
    still, _ = step_b(b[0], b[1])
    assert_trees_equal(still["head"], b[0]["head"])


def test_an_injected_target_too_coarse_to_count_is_refused():
    params, zigs = conv_tree()
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    tx = optax.inject_hyperparams(oto_jax.hspg)(RATE, zigs, **TARGET)
    with pytest.raises(oto_jax.HyperparameterError, match="static_args"):
        jax.jit(tx.update)(params, jax.jit(tx.init)(params), params)


@some_optimizers
def test_gradients_are_accumulated_by_multi_steps(make):
    params, zigs = conv_tree()
    inner = make(RATE, zigs)
    outer = optax.MultiSteps(inner, every_k_schedule=3)
    many, once = make_step(outer), make_step(inner)
    a, b = (params, jax.jit(outer.init)(params)), (params, inner.init(params))
    for _ in range(4):
        b = once(*b)
        for mini_step in range(3):
            before = a[0]
            a = many(*a)
            if mini_step < 2:
                assert_trees_equal(a[0], before)
        oto_jax.check_zeros(a[0], zigs, a[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a[0], b[0])


@some_optimizers
def test_steps_that_are_not_finite_are_refused_by_apply_if_finite(make):
    params, zigs = conv_tree()
    tx = optax.apply_if_finite(make(RATE, zigs), max_consecutive_errors=3)
    state = tx.init(params)
    update = jax.jit(tx.update)
    updates, state = update(gradient(params), state, params)
    params = optax.apply_updates(params, updates)
    bad = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), gradient(params))
    updates, after = update(bad, state, params)
    assert_trees_equal(optax.apply_updates(params, updates), params)
    assert_trees_equal(after.inner_state, state.inner_state)
    assert int(after.notfinite_count) == 1


def test_groups_can_be_partitioned_from_the_rest():
    params, zigs = conv_tree()
    labels = {k: jax.tree.map(lambda _, k=k: "rest" if k == "head" else "groups", v)
              for k, v in params.items()}  # fmt: skip
    tx = optax.partition(
        {"groups": oto_jax.hspg(RATE, zigs, epsilon=0.9, lmbda=1.0), "rest": optax.adam(RATE)},
        labels,
    )
    step, state = make_step(tx), jax.jit(tx.init)(params)
    for _ in range(30):
        params, state = step(params, state)
    oto_jax.check_zeros(params, zigs, state)
    assert int(oto_jax.group_sparsity(params, zigs).zero_groups) > 0


def test_a_partition_that_cuts_groups_apart_is_refused():
    params, zigs = conv_tree()
    labels = {k: jax.tree.map(lambda _, k=k: k, v) for k, v in params.items()}
    tx = optax.partition(
        {**dict.fromkeys(params, optax.sgd(RATE)), "stem": oto_jax.hspg(RATE, zigs)}, labels
    )
    state = tx.init(params)
    with pytest.raises(oto_jax.ZIGMismatchError, match="every parameter that the groups cover"):
        tx.update(params, state, params)


def test_flax_train_state():
    model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(3)])
    x = jax.random.normal(jax.random.key(0), (8, 4))
    variables = model.init(jax.random.key(1), x)
    zigs = oto_jax.find_zigs(model, variables, x)
    tx = optax.chain(optax.clip_by_global_norm(1.0), oto_jax.hspg(0.1, zigs, **TARGET))
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=tx)

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.mean(state.apply_fn({"params": p}, x) ** 2))(state.params)
        return state.apply_gradients(grads=grads)

    for _ in range(4):
        state = step(state)
    oto_jax.check_zeros(state.params, zigs, state)
    assert int(oto_jax.group_sparsity(state.params, zigs, state).zero_groups) == 8


def test_nnx_optimizer():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one, self.two = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, x):
            return self.two(nnx.relu(self.one(x)))

    model, x = Net(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (8, 4))
    zigs = oto_jax.find_zigs(model, x)
    optimizer = nnx.Optimizer(model, oto_jax.hspg(0.1, zigs, momentum=0.9, **TARGET), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(4):
        step(model, optimizer)
    params = nnx.state(model, nnx.Param)
    assert int(oto_jax.group_sparsity(params, zigs).zero_groups) == 8
    oto_jax.check_zeros(params, zigs, nnx.as_pure(optimizer.opt_state))


@pytest.mark.parametrize("name", TREES)
def test_strict_promotion_and_ranks(name):
    params, zigs = TREES[name]()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for settings in ({}, {"momentum": 0.9, "upper_group_sparsity": 0.5}, TARGET):
            tx = oto_jax.hspg(RATE, zigs, **settings)
            jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params), params)


def test_vmapped_training_equals_single_runs():
    params, zigs = conv_tree()
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[random_like(params, i) for i in range(3)])
    tx = oto_jax.hspg(0.3, zigs, epsilon=0.5, upper_group_sparsity=0.5)
    step = make_step(tx)
    together, states = jax.vmap(step)(stacked, jax.vmap(tx.init)(stacked))
    for i in range(3):
        alone = jax.tree.map(lambda x, i=i: x[i], stacked)
        alone, state = step(alone, tx.init(alone))
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-6, atol=1e-7),
            together,
            alone,
        )
        (one,), (all_,) = projection_states(state), projection_states(states)
        assert_trees_equal(jax.tree.map(lambda x, i=i: x[i], all_.zero), one.zero)
