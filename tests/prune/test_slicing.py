"""Slicing variables, and training state of every kind, along a plan."""

import os
import subprocess
import sys
from typing import Any, NamedTuple

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import oto_jax
from oto_jax.prune.plan import ArrayPlan, Cut, Plan, SpacePlan
from oto_jax.prune.slicing import slice_variables
from tests.prune.linen_models import CASES, IMAGES, ResidualNet
from tests.prune.zeroing import half_zero, random_groups, randomised, zero_groups

KEPT = [0, 2, 5]
PLAN = Plan(
    (SpacePlan("a", 0, Cut.of(6, KEPT)),),
    (
        ArrayPlan(("params", "a", "kernel"), (3, 6), ((1, Cut.of(6, KEPT)),)),
        ArrayPlan(("params", "a", "bias"), (6,), ((0, Cut.of(6, KEPT)),)),
        ArrayPlan(("params", "b", "kernel"), (6, 2), ((0, Cut.of(6, KEPT)),)),
        ArrayPlan(("params", "scale"), ()),
        ArrayPlan(("batch_stats", "a", "mean"), (6,), ((0, Cut.of(6, KEPT)),)),
    ),
    ("params",),
)
PARAMS: dict[str, Any] = {
    "a": {"kernel": jnp.arange(18.0).reshape(3, 6), "bias": jnp.arange(6.0)},
    "b": {"kernel": jnp.arange(12.0).reshape(6, 2)},
    "scale": jnp.ones(()),
}
VARIABLES = {"params": PARAMS, "batch_stats": {"a": {"mean": jnp.arange(6.0)}}}


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def slim_params():
    return slice_variables(VARIABLES, PLAN)["params"]


def test_values_are_those_of_the_kept_positions():
    slim = slice_variables(VARIABLES, PLAN)
    np.testing.assert_array_equal(
        slim["params"]["a"]["kernel"], np.asarray(PARAMS["a"]["kernel"])[:, KEPT]
    )
    np.testing.assert_array_equal(
        slim["params"]["b"]["kernel"], np.asarray(PARAMS["b"]["kernel"])[KEPT]
    )
    np.testing.assert_array_equal(slim["batch_stats"]["a"]["mean"], KEPT)
    assert slim["params"]["scale"] is PARAMS["scale"]


def test_containers_boxes_and_array_kinds_stay():
    frozen = slice_variables(flax.core.freeze(VARIABLES), PLAN)
    assert isinstance(frozen, flax.core.FrozenDict)
    numpy = slice_variables(jax.tree.map(np.asarray, VARIABLES), PLAN)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(numpy))
    abstract = slice_variables(jax.eval_shape(lambda: VARIABLES), PLAN)
    assert abstract["params"]["a"]["kernel"] == jax.ShapeDtypeStruct((3, 3), jnp.float32)
    boxed = jax.tree.map(lambda x: nn.Partitioned(x, ("model",) * x.ndim), VARIABLES)
    slim = slice_variables(boxed, PLAN)
    assert slim["params"]["a"]["bias"].names == ("model",)
    assert shapes(nn.unbox(slim)) == shapes(slice_variables(VARIABLES, PLAN))


def test_widening_puts_zeros_where_the_plan_cut():
    wide = oto_jax.widen(slice_variables(VARIABLES, PLAN), PLAN)
    assert shapes(wide) == shapes(VARIABLES)
    gone = [position for position in range(6) if position not in KEPT]
    for array in (wide["params"]["a"]["kernel"].T, wide["params"]["a"]["bias"]):
        assert not array[gone].any()
    again = slice_variables(wide, PLAN)
    jax.tree.map(np.testing.assert_array_equal, again, slice_variables(VARIABLES, PLAN))
    assert wide["params"]["scale"] is PARAMS["scale"]


def test_widening_keeps_boxes_types_and_abstract_arrays():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), slice_variables(VARIABLES, PLAN))
    wide = oto_jax.widen(flax.core.freeze(half), PLAN)
    assert isinstance(wide, flax.core.FrozenDict)
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {np.dtype(jnp.bfloat16)}
    abstract = oto_jax.widen(jax.eval_shape(lambda: half), PLAN)
    assert abstract["params"]["a"]["kernel"] == jax.ShapeDtypeStruct((3, 6), jnp.bfloat16)


@pytest.mark.parametrize("name", ["residual", "vgg", "scanned", "head_dim", "grouped", "tied"])
def test_a_widened_network_computes_what_the_slim_one_does(name):
    with jax.enable_x64(True):
        case = CASES[name]
        variables = randomised(jax.eval_shape(case.model.init, jax.random.key(0), *case.inputs))
        zigs = oto_jax.find_zigs(case.model, variables, *case.inputs, **case.options)
        slim = oto_jax.prune(case.model, half_zero(variables, zigs), zigs)
        wide = oto_jax.widen(slim.variables, slim.plan)
        certificate = oto_jax.certify((case.model, wide), slim, *case.inputs)
        assert certificate.relative <= 1e-10
        assert certificate.full.parameters == oto_jax.count_parameters(variables)
        assert oto_jax.prune(case.model, wide, zigs).plan == slim.plan


def test_slim_variables_of_another_cut_are_named():
    slim = slice_variables(VARIABLES, PLAN)
    uncut = {**slim, "params": {**slim["params"], "a": PARAMS["a"]}}
    with pytest.raises(oto_jax.ZIGMismatchError, match=r"'params/a/bias' has shape \(6,\).*\(3,\)"):
        oto_jax.widen(uncut, PLAN)
    lacking = {**slim, "params": {name: slim["params"][name] for name in ("a", "scale")}}
    with pytest.raises(oto_jax.ZIGMismatchError, match="have no 'params/b/kernel'"):
        oto_jax.widen(lacking, PLAN)


def test_wrong_variables_are_named():
    with pytest.raises(oto_jax.ZIGMismatchError, match="knows no array 'params/c'"):
        slice_variables({**VARIABLES, "params": {**PARAMS, "c": jnp.ones(2)}}, PLAN)
    with pytest.raises(oto_jax.ZIGMismatchError, match="batch_stats/a/mean"):
        slice_variables({"params": PARAMS}, PLAN)
    with pytest.raises(oto_jax.ZIGMismatchError, match=r"scale.*\(2,\)"):
        slice_variables({**VARIABLES, "params": {**PARAMS, "scale": jnp.ones(2)}}, PLAN)


def labels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" if "bias" in jax.tree_util.keystr(path) else "rest", params
    )


OPTIMIZERS = {
    "adam": optax.adam(1e-3),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "multi_steps": optax.MultiSteps(optax.adamw(1e-3), 3),
    "inject": optax.inject_hyperparams(optax.adam)(learning_rate=1e-3, b1=0.9),
    "partition": optax.partition(
        {"bias": optax.sgd(0.1, momentum=0.9), "rest": optax.adam(1e-3)}, labels
    ),
    "masked": optax.masked(optax.adam(1e-3), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "apply_if_finite": optax.apply_if_finite(optax.adam(1e-3), 3),
    "lookahead_like": optax.chain(optax.ema(0.9), optax.trace(0.9), optax.scale_by_amsgrad()),
    "lbfgs": optax.lbfgs(memory_size=4),
    "contrib": optax.contrib.schedule_free_sgd(0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shrunk_state_has_the_structure_of_a_fresh_one(name):
    """Shapes equal those of ``init`` on the slim parameters, under the same optimizer."""
    tx = OPTIMIZERS[name]
    shrunk = oto_jax.shrink(tx.init(PARAMS), PLAN)
    fresh = jax.eval_shape(tx.init, slim_params())
    jax.tree.map(lambda a, b: None, shrunk, fresh)  # The structures are the same.
    assert shapes(shrunk) == shapes(fresh)


def test_moments_are_those_of_the_kept_positions():
    tx = optax.adam(1e-3)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    shrunk = oto_jax.shrink(state, PLAN)
    np.testing.assert_array_equal(
        shrunk[0].mu["a"]["bias"], state[0].mu["a"]["bias"][np.array(KEPT)]
    )
    assert shrunk[0].count == state[0].count


class StatefulTrainState(TrainState):
    batch_stats: dict


def test_train_state_with_statistics():
    state = StatefulTrainState.create(
        apply_fn=None, params=PARAMS, tx=optax.adam(1e-3), batch_stats=VARIABLES["batch_stats"]
    )
    shrunk = oto_jax.shrink(state, PLAN)
    assert shapes(shrunk.params) == shapes(slim_params())
    assert shrunk.batch_stats["a"]["mean"].shape == (3,)
    assert shapes(shrunk.opt_state[0].nu) == shapes(slim_params())


def test_replicas_in_front_stay():
    state = jax.tree.map(lambda x: jnp.stack([x] * 8), optax.adam(1e-3).init(PARAMS))
    shrunk = oto_jax.shrink(state, PLAN)
    assert shrunk[0].mu["a"]["kernel"].shape == (8, 3, 3)
    assert shrunk[0].count.shape == (8,)


class PerGroup(NamedTuple):
    scores: jax.Array

    def shrink(self, plan):
        return PerGroup(self.scores[plan.kept_groups])


def test_a_node_may_shrink_itself():
    shrunk = oto_jax.shrink({"inner": (PerGroup(jnp.arange(6)), jnp.ones(()))}, PLAN)
    assert shrunk["inner"][0].scores.tolist() == KEPT


def test_states_of_the_library_shrink():
    model = ResidualNet()
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), IMAGES.astype(np.float32)))
    zigs = oto_jax.find_zigs(model, variables, IMAGES.astype(np.float32))
    variables = half_zero(variables, zigs)
    slim = oto_jax.prune(model, variables, zigs)
    options = {"momentum": 0.9, "epsilon": 0.5, "start_step": 2}
    state = oto_jax.hspg(0.1, zigs, **options).init(variables["params"])
    shrunk = oto_jax.shrink(state, slim.plan)
    slim_zigs = oto_jax.shrink_zigs(zigs, slim.plan)
    fresh = oto_jax.hspg(0.1, slim_zigs, **options).init(slim.variables["params"])
    assert shapes(shrunk) == shapes(fresh)


def test_the_parameter_is_told_by_the_whole_mirrored_tree():
    """A parameter called like a moment, and one at the root called like one further down."""
    cut = ((0, Cut.of(4, [1])),)
    arrays = (
        ArrayPlan(("mu", "w"), (4,)),
        ArrayPlan(("w",), (4,), cut),
        ArrayPlan(("layer", "w"), (4,)),
    )
    params = {"mu": {"w": jnp.ones(4)}, "w": jnp.ones(4), "layer": {"w": jnp.ones(4)}}
    state = oto_jax.shrink(optax.adam(1e-3).init(params), Plan((), arrays, ()))
    want = {"mu": {"w": (4,)}, "w": (1,), "layer": {"w": (4,)}}
    assert shapes(state[0].mu) == want
    assert shapes(state[0].nu) == want


def test_accumulators_in_a_parameters_place_are_an_error():
    """One for each axis, so that none has the parameter's shape."""
    with pytest.raises(oto_jax.ZIGMismatchError, match="how to cut it does not follow"):
        oto_jax.shrink(optax.sm3(1e-3).init(PARAMS), PLAN)


def test_what_does_not_follow_is_an_error():
    factored = optax.adafactor(1e-3, min_dim_size_to_factor=2).init(PARAMS)
    with pytest.raises(oto_jax.ZIGMismatchError, match="a/kernel"):
        oto_jax.shrink(factored, PLAN)
    state = optax.adam(1e-3).init(PARAMS)
    with pytest.raises(oto_jax.ZIGMismatchError, match="shrunk already"):
        oto_jax.shrink(oto_jax.shrink(state, PLAN), PLAN)
    vector = ArrayPlan(("w",), (4,), ((0, Cut.of(4, [1])),))
    assert oto_jax.shrink({"w": jnp.ones((3, 4))}, Plan((), (vector,), ()))["w"].shape == (3, 1)
    with pytest.raises(oto_jax.ZIGMismatchError, match="'w' has shape .4, 4."):
        oto_jax.shrink({"w": jnp.eye(4)}, Plan((), (vector,), ()))  # entries across the vector
    arrays = (ArrayPlan(("x", "w"), (4,), ((0, Cut.of(4, [1])),)), ArrayPlan(("w",), (4,)))
    with pytest.raises(oto_jax.ZIGMismatchError, match="could belong to"):
        oto_jax.shrink({"x": {"w": jnp.ones(4)}}, Plan((), arrays, ()))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.last = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def test_nnx_optimizer():
    model = Net(nnx.Rngs(0))
    x = jnp.ones((3, 4))
    zigs = oto_jax.find_zigs(model, x)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, zero_groups(params, zigs, random_groups(zigs)))
    slim = oto_jax.prune(model, zigs)
    shrunk = oto_jax.shrink(optimizer, slim.plan)
    assert isinstance(shrunk, nnx.Optimizer)
    gradients = nnx.grad(lambda m: m(x).sum())(slim.model)
    shrunk.update(slim.model, gradients)
    assert slim.model.first.kernel.get_value().shape == (4, 3)


def test_vectors_over_groups_are_not_left_as_they_are():
    model, x = Net(nnx.Rngs(0)), jnp.ones((3, 4))
    zigs = oto_jax.find_zigs(model, x)
    optimizer = nnx.Optimizer(model, oto_jax.hspg(0.1, zigs), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, zero_groups(params, zigs, random_groups(zigs)))
    plan = oto_jax.prune(model, zigs).plan
    oto_jax.shrink(optimizer, plan)
    with pytest.raises(oto_jax.ZIGMismatchError, match="vector over groups"):
        oto_jax.shrink(nnx.state(optimizer), plan)


def adam_run(model, variables, zigs, dead, steps, shrink_at=None):
    """Adam on the masked model; cut out at ``shrink_at`` where that is given."""
    tx = optax.adam(1e-2)
    targets = np.random.default_rng(5).standard_normal((2, 5))

    def step(model, variables, state, mask):
        def loss(params):
            out, updates = model.apply(
                {**variables, "params": params}, IMAGES, train=True, mutable=["batch_stats"]
            )
            return jnp.square(out - targets).mean(), updates

        gradients, updates = jax.grad(loss, has_aux=True)(variables["params"])
        gradients = jax.tree.map(lambda g, m: jnp.where(m, 0.0, g), gradients, mask)
        change, state = tx.update(gradients, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], change), **updates}, state

    mask = jax.tree.map(lambda numbers: np.isin(numbers, dead), zigs.masks)
    state = tx.init(variables["params"])
    run = jax.jit(step, static_argnums=0)
    for number in range(steps):
        if number == shrink_at:
            slim = oto_jax.prune(model, variables, zigs)
            model, variables, state = slim.model, slim.variables, oto_jax.shrink(state, slim.plan)
            mask = jax.tree.map(lambda _: False, variables["params"])
        variables, state = run(model, variables, state, mask)
    return model, variables


def test_training_after_shrink_follows_the_masked_run():
    """Adam, float64: 50 steps after the cut in step 5 the parameters are the same."""
    with jax.enable_x64(True):
        model = ResidualNet()
        variables = randomised(jax.eval_shape(model.init, jax.random.key(0), IMAGES))
        zigs = oto_jax.find_zigs(model, variables, IMAGES)
        dead = random_groups(zigs)
        variables = {**variables, "params": zero_groups(variables["params"], zigs, dead)}
        _, masked = adam_run(model, variables, zigs, dead, 55)
        _, slim = adam_run(model, variables, zigs, dead, 55, shrink_at=5)
        wanted = oto_jax.prune(model, masked, zigs).variables
        for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(slim), strict=True):
            assert np.abs(a - b).max() <= 1e-9 * max(1.0, np.abs(a).max())


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from oto_jax.prune.plan import ArrayPlan, Cut, Plan
from oto_jax.prune.slicing import slice_variables
mesh = jax.make_mesh((4, 2), ("x", "y"))
put = lambda a, *s: jax.device_put(a, jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*s)))
cuts = ((0, Cut.of(8, range(4))), (1, Cut.of(8, range(3))))
plan = Plan((), (ArrayPlan(("w",), (8, 8), cuts),), ())
w = put(jnp.arange(64.0).reshape(8, 8), "x", "y")
slim = slice_variables({"w": w}, plan)["w"]
np.testing.assert_array_equal(slim, np.arange(64.0).reshape(8, 8)[:4, :3])
assert slim.sharding.spec == jax.sharding.PartitionSpec("x", None), slim.sharding
assert len(slim.sharding.device_set) == 8
"""


def test_sharded_arrays_keep_the_sharding_that_still_divides(root):
    flags = "--xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, "-c", SHARDED],
        cwd=root,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
