"""Cutting the dead groups out while training goes on changes nothing but the time it takes."""

import dataclasses
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from oto_jax.prune.slicing import slice_variables

STEPS, EVERY = 300, 50


class Network(nn.Module):
    """A convolution stream of 48 channels with a residual block of 64, batch normalised."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = lambda: nn.BatchNorm(use_running_average=not train)  # noqa: E731
        x = nn.relu(norm()(nn.Conv(48, (3, 3), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(64, (3, 3))(x)))
        x = nn.relu(x + norm()(nn.Conv(48, (3, 3), use_bias=False)(y)))
        return nn.Dense(5)(x.mean((1, 2)))


MAKERS = {
    "faithful": lambda zigs: oto_jax.hspg(
        0.05, zigs, lmbda=2e-2, epsilon=0.95, momentum=0.9, start_step=40,
        upper_group_sparsity=0.8, zero_dependents=True,
    ),
    "target": lambda zigs: oto_jax.hspg(
        0.05, zigs, momentum=0.9, start_step=40, target_group_sparsity=0.7, target_steps=200
    ),
    "kept, adamw": lambda zigs: oto_jax.pass_gradient(
        optax.chain(
            oto_jax.add_group_lasso(1e-3, zigs),
            # Where gradients fall below its epsilon, Adam takes rounding for a direction.
            optax.adamw(3e-3, eps=1e-5),
            oto_jax.project_half_space(
                zigs, start_step=40, target_group_sparsity=oto_jax.Target(kept=0.2),
                target_steps=200,
            ),
        )
    ),
}  # fmt: skip


@dataclasses.dataclass
class Run:
    model: Any
    zigs: oto_jax.ZIGs
    variables: Any
    state: Any
    make: Any
    seconds: float = 0.0

    def train(self, start, stop):
        step = make_step(self.model, self.make(self.zigs))
        step = step.lower(self.variables, self.state, jnp.asarray(0)).compile()
        begin = time.perf_counter()
        for t in range(start, stop):
            self.variables, self.state = step(self.variables, self.state, jnp.asarray(t))
        jax.block_until_ready(self.variables)
        self.seconds += time.perf_counter() - begin

    def shrink(self):
        slim = oto_jax.prune(self.model, self.variables, self.zigs)
        self.state = oto_jax.shrink(self.state, slim.plan)
        self.zigs = oto_jax.shrink_zigs(self.zigs, slim.plan)
        self.model, self.variables = slim.model, slim.variables


def batch(step):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step))
    labels = jax.random.randint(keys[0], (16,), 0, 5)
    centres = jax.random.normal(jax.random.key(1), (5, 6, 6, 2))
    return centres[labels] + 0.5 * jax.random.normal(keys[1], (16, 6, 6, 2)), labels


def make_step(model, tx):
    @jax.jit
    def step(variables, state, t):
        x, labels = batch(t)

        def loss(params):
            logits, updated = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = tx.update(grads, state, variables["params"])
        return {**updated, "params": optax.apply_updates(variables["params"], updates)}, state

    return step


def fresh_run(make):
    model, x = Network(), jnp.zeros((1, 6, 6, 2))
    variables = jax.tree.map(lambda v: v.astype(float), model.init(jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x, train=False)
    return Run(model, zigs, variables, make(zigs).init(variables["params"]), make)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_shrinking_every_50_steps_changes_nothing(name):
    with jax.enable_x64(True):
        whole, shrunk = fresh_run(MAKERS[name]), fresh_run(MAKERS[name])
        for start in range(0, STEPS, EVERY):
            whole.train(start, start + EVERY)
            shrunk.train(start, start + EVERY)
            shrunk.shrink()
        x, _ = batch(STEPS)
        expected = whole.model.apply(whole.variables, x)
        np.testing.assert_allclose(
            shrunk.model.apply(shrunk.variables, x), expected, rtol=0, atol=1e-8
        )
        dead = int(oto_jax.group_sparsity(whole.variables["params"], whole.zigs).zero_groups)
    assert whole.zigs.num_groups - shrunk.zigs.num_groups == dead > 20
    print(f"{name}: {shrunk.seconds / whole.seconds:.2f} of the time, {dead} groups dead")
    assert shrunk.seconds < whole.seconds


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epsilon": oto_jax.AdaptiveEpsilon(), "upper_group_sparsity": 0.9},
        {"target_group_sparsity": 0.2, "target_steps": 10},
        {"target_group_sparsity": {"a": 0.2}, "target_steps": 10},
    ],
)
def test_training_goes_on_after_a_space_is_gone(settings):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"a": (4, 6), "b": (4, 6), "out": (6, 3), "skip": (4, 3)}
    params = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}

    def g(params, x):
        hidden = jnp.maximum(x @ params["a"], 0) @ params["out"]
        return x @ params["skip"] + hidden + jnp.maximum(x @ params["b"], 0) @ params["more"]

    params["more"] = params["out"] + 1
    params["b"] = jnp.zeros((4, 6))
    x = jnp.ones((2, 4))
    zigs = oto_jax.find_zigs(g, params, x)
    tx = oto_jax.hspg(0.01, zigs, **settings)
    _, state = tx.update(params, tx.init(params), params)
    plan = oto_jax.make_plan(params, zigs, keep_one=False)
    narrow, slim = oto_jax.narrow(g, params, zigs)
    left, state = oto_jax.shrink_zigs(zigs, plan), oto_jax.shrink(state, plan)
    assert [space.name for space in left.spaces] == ["a"]
    np.testing.assert_allclose(narrow(slim, x), g(params, x), rtol=1e-5)
    after = oto_jax.hspg(0.01, left, **settings)
    updates, later = jax.jit(after.update)(slim, state, slim)
    assert jax.tree.structure(later) == jax.tree.structure(state)
    slim = optax.apply_updates(slim, updates)
    oto_jax.check_zeros(slim, left, later)
    assert np.isfinite(oto_jax.group_sparsity(slim, left, later).smallest_ratio)


def test_a_network_without_groups_has_a_sparsity():
    params = {"a": jnp.zeros((2, 3)), "b": jnp.ones((3, 1))}
    zigs = oto_jax.find_zigs(
        lambda p, x: jnp.maximum(x @ p["a"], 0) @ p["b"], params, jnp.ones((1, 2))
    )
    plan = oto_jax.make_plan(params, zigs, keep_one=False)
    found = oto_jax.group_sparsity(slice_variables(params, plan), oto_jax.shrink_zigs(zigs, plan))
    assert (float(found.overall), int(found.zero_groups), float(found.regulariser)) == (0, 0, 0)
