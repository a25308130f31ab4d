"""A pruned Linen model computes what the full one does, and is a module like any other."""

import dataclasses
import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from oto_jax.prune.linen_widths import base_class
from tests.prune.linen_models import (
    CASES,
    IMAGES,
    SEQUENCES,
    TOKENS,
    VECTORS,
    Attention,
    Configured,
    Outer,
    OwnAttention,
    ResidualNet,
    SetUp,
    VGGNet,
    Widths,
    relative,
    run,
)
from tests.prune.zeroing import half_zero, randomised


def pruned_case(name):
    return _pruned_case(name, bool(jax.config.read("jax_enable_x64")))


@functools.cache
def _pruned_case(name, double):
    case = CASES[name]
    inputs = tuple(x.astype(jnp.result_type(x)) for x in case.inputs)
    case = dataclasses.replace(case, inputs=inputs)
    shapes = jax.eval_shape(case.model.init, jax.random.key(0), *inputs)
    variables = randomised(shapes)
    zigs = oto_jax.find_zigs(case.model, variables, *inputs, **case.options)
    variables = half_zero(variables, zigs)
    return case, variables, zigs, oto_jax.prune(case.model, variables, zigs)


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_masked(name):
    with jax.enable_x64(True):
        case, variables, zigs, slim = pruned_case(name)
        assert zigs.spaces
        assert slim.plan.form == case.form
        for space in slim.plan.spaces:
            assert space.units.count < space.units.size
        full = run(case.model, variables, *case.inputs)
        assert np.abs(full).max() > 1e-3
        assert relative(full, run(slim.model, slim.variables, *case.inputs)) <= 1e-10


@pytest.mark.parametrize("name", CASES)
def test_pruned_model_initialises_at_its_own_widths(name):
    case, _, _, slim = pruned_case(name)
    initial = jax.eval_shape(slim.model.init, jax.random.key(0), *case.inputs)
    shapes = jax.tree.map(jnp.shape, slim.variables)
    assert jax.tree.map(jnp.shape, initial) == shapes


@pytest.mark.parametrize("name", CASES)
def test_pruned_model_is_hashable_prints_and_tabulates(name):
    case, _, _, slim = pruned_case(name)
    assert hash(slim.model) == hash(slim.model.clone())
    assert slim.model == slim.model.clone()
    assert isinstance(slim.model, type(case.model))
    assert type(slim.model).__name__ in repr(slim.model)
    table = slim.model.tabulate(jax.random.key(0), *case.inputs, console_kwargs={"width": 200})
    assert type(case.model).__name__ in table


def test_configured_model_is_the_same_class_at_another_configuration():
    *_, slim = pruned_case("configured")
    assert type(slim.model) is Configured
    assert slim.model == Configured(Widths((5, 7), 6))


def test_every_method_works_as_before():
    model = SetUp()
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), TOKENS))
    zigs = oto_jax.find_zigs(model, variables, TOKENS)
    variables = half_zero(variables, zigs)
    slim = oto_jax.prune(model, variables, zigs)
    kept = slim.plan.units(zigs.spaces[-1].name).positions
    full = run(model, variables, TOKENS, method="encode")[..., kept]
    function = lambda module, tokens: module.encode(tokens)  # noqa: E731
    for method in ("encode", SetUp.encode, slim.model.encode, model.encode, function):
        given = run(slim.model, slim.variables, TOKENS, method=method)
        np.testing.assert_allclose(given, full, rtol=1e-5, atol=1e-6)
    bound = slim.model.bind(slim.variables)
    np.testing.assert_allclose(bound.encode(TOKENS), full, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bound(TOKENS), run(model, variables, TOKENS), rtol=1e-5, atol=1e-5)
    assert bound.embed(TOKENS).shape[-1] == slim.variables["params"]["embed"]["embedding"].shape[1]
    initial = slim.model.init(jax.random.key(0), TOKENS, method=SetUp.encode)
    assert "head" not in initial["params"]


def test_intermediates_are_captured_once():
    case, _, _, slim = pruned_case("residual")
    _, state = run(slim.model, slim.variables, *case.inputs, capture_intermediates=True)
    assert len(state["intermediates"]["__call__"]) == 1
    assert len(state["intermediates"]["Conv_0"]["__call__"]) == 1


def test_slim_model_works_inside_another_module():
    case, variables, _, slim = pruned_case("residual")

    class Wrapper(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return 2 * self.inner(x)

    nested = {name: {"inner": tree} for name, tree in slim.variables.items()}
    given = Wrapper(slim.model).apply(nested, *case.inputs)
    full = run(case.model, variables, *case.inputs)
    np.testing.assert_allclose(given, 2 * full, rtol=1e-4, atol=1e-5)


def test_slim_model_pickles_and_copies():
    *_, slim = pruned_case("residual")
    again = pickle.loads(pickle.dumps(slim.model))
    assert again == slim.model
    assert type(again) is type(slim.model)
    assert base_class(type(again)) is ResidualNet


def test_running_statistics_go_on_in_training():
    """Training mode: outputs and updated statistics equal those of the masked model."""
    with jax.enable_x64(True):
        case, variables, zigs, slim = pruned_case("residual")
        options = {"train": True, "mutable": ["batch_stats"]}
        full, stats = run(case.model, variables, IMAGES, **options)
        given, slim_stats = run(slim.model, slim.variables, IMAGES, **options)
        assert relative(full, given) <= 1e-10
        wanted = oto_jax.prune(case.model, {**variables, **stats}, zigs).variables["batch_stats"]
        for a, b in zip(
            jax.tree.leaves(wanted), jax.tree.leaves(slim_stats["batch_stats"]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_found_in_training_mode_with_dropout():
    model = VGGNet()
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = randomised(
        jax.eval_shape(lambda: model.init(rngs, jnp.asarray(IMAGES), train=True))
    )
    rngs = {"dropout": jax.random.key(1)}
    zigs = oto_jax.find_zigs(model, variables, IMAGES, train=True, rngs=rngs)
    variables = half_zero(variables, zigs)
    slim = oto_jax.prune(model, variables, zigs)
    given = run(slim.model, slim.variables, IMAGES)
    np.testing.assert_allclose(given, run(model, variables, IMAGES), rtol=1e-4, atol=1e-5)
    run(slim.model, slim.variables, IMAGES, train=True, rngs=rngs)


def test_slim_model_trains():
    *_, slim = pruned_case("residual")
    tx = optax.sgd(0.1)
    params, stats = slim.variables["params"], slim.variables["batch_stats"]

    @jax.jit
    def step(params, state):
        def loss(params):
            out, _ = slim.model.apply(
                {"params": params, "batch_stats": stats},
                IMAGES,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.square(out - 1).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state)
        return value, optax.apply_updates(params, updates), state

    state = tx.init(params)
    first, params, state = step(params, state)
    for _ in range(20):
        last, params, state = step(params, state)
    assert last < 0.5 * first


def test_pruning_twice_equals_pruning_once():
    """A slim model is pruned like any other, also where attention keeps its scale."""
    with jax.enable_x64(True):
        case, _, _, slim = pruned_case("head_dim")
        zigs = oto_jax.find_zigs(slim.model, slim.variables, *case.inputs, attention="head_dim")
        twice = half_zero(slim.variables, zigs, share=0.4, seed=1)
        slimmer = oto_jax.prune(slim.model, twice, zigs)
        full = run(slim.model, twice, *case.inputs)
        assert relative(full, slimmer.model.apply(slimmer.variables, *case.inputs)) <= 1e-10
        assert base_class(type(slimmer.model)) is Attention
        assert len(slimmer.plan.kept_groups) < zigs.num_groups


def test_groups_by_shrunk_zigs_equal_those_found_anew():
    for name in ("residual", "vgg", "heads", "scanned", "own_attention"):
        case, _, zigs, slim = pruned_case(name)
        shrunk = oto_jax.shrink_zigs(zigs, slim.plan)
        found = oto_jax.find_zigs(slim.model, slim.variables, *case.inputs, **case.options)
        assert shrunk.spaces == found.spaces, name
        assert shrunk == found


def test_model_without_zero_groups_stays_itself():
    model = Configured()
    variables = jax.jit(model.init)(jax.random.key(0), VECTORS)
    zigs = oto_jax.find_zigs(model, variables, VECTORS)
    slim = oto_jax.prune(model, variables, zigs)
    assert slim.plan.whole
    assert slim.model is model


def test_works_at_another_batch_size_and_under_transformations():
    case, variables, _, slim = pruned_case("heads")
    more = np.random.default_rng(1).standard_normal((7, 9, 16)).astype(np.float32)
    each = jax.jit(jax.vmap(lambda x: slim.model.apply(slim.variables, x[None])[0]))
    full = run(case.model, variables, more)
    np.testing.assert_allclose(each(more), full, rtol=1e-4, atol=1e-4)
    gradient = jax.eval_shape(jax.grad(lambda v: slim.model.apply(v, more).sum()), slim.variables)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, slim.variables)


def test_hard_coded_shape_is_named_and_points_to_narrow():
    model = Outer()
    variables = jax.jit(model.init)(jax.random.key(0), VECTORS)
    zigs = oto_jax.find_zigs(model, variables, VECTORS)
    with pytest.raises(oto_jax.UnprunableModelError, match=r"(?s)'inner'.*oto_jax\.narrow"):
        oto_jax.prune(model, half_zero(variables, zigs), zigs)


def test_width_inside_a_formula_is_refused():
    """The scale of these scores is made of the width that shrinks: the slim model would differ."""
    model = OwnAttention()
    variables = jax.jit(model.init)(jax.random.key(0), SEQUENCES)
    zigs = oto_jax.find_zigs(model, variables, SEQUENCES, attention="head_dim")
    with pytest.raises(oto_jax.UnprunableModelError, match=r"not the same model.*2\.0|narrow"):
        oto_jax.prune(model, half_zero(variables, zigs), zigs)


class Scaled(nn.Module):
    """A width in a formula, where random input does not show it."""

    kind: str

    @nn.compact
    def __call__(self, x):
        tokens = self.kind == "tokens"
        h = nn.relu(nn.Dense(8)(nn.Embed(30, 5)(x) if tokens else x))
        scaled = h * h.shape[-1]
        if self.kind == "noise":
            h = h * jax.random.normal(jax.random.key(7), (1, h.shape[-1]))
        elif self.kind != "argmax":
            rare = x > 5 if tokens else x[..., 0] > 10
            scaled = jnp.where(rare[..., None], scaled, h)
        y = nn.Dense(3)(h if self.kind == "noise" else scaled)
        return jnp.argmax(y + 5 * nn.Dense(3)(x), -1) if self.kind == "argmax" else y


@pytest.mark.parametrize("kind", ["tokens", "rare", "argmax", "noise"])
def test_a_width_that_random_values_do_not_show_is_refused(kind):
    x = np.asarray([[1, 2, 7, 20]]) if kind == "tokens" else jnp.asarray(VECTORS, jnp.float32)
    model = Scaled(kind)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), x))
    zigs = oto_jax.find_zigs(model, variables, x)
    with pytest.raises(oto_jax.UnprunableModelError, match=r"mul uses|key that is not given"):
        oto_jax.prune(model, half_zero(variables, zigs), zigs)


def test_layer_norm_over_a_pruned_width_is_refused():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.LayerNorm()(nn.Dense(8)(x)))

    model = Net()
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), VECTORS))
    zigs = oto_jax.find_zigs(model, variables, VECTORS, narrow_only=True)
    with pytest.raises(oto_jax.UnprunableModelError, match="narrow"):
        oto_jax.prune(model, half_zero(variables, zigs), zigs)


def test_wrong_arguments_are_named():
    model = Configured()
    variables = jax.jit(model.init)(jax.random.key(0), VECTORS)
    zigs = oto_jax.find_zigs(model, variables, VECTORS)
    with pytest.raises(oto_jax.ZIGMismatchError, match="needs the ZIGs"):
        oto_jax.prune(model, variables)
    with pytest.raises(oto_jax.UnprunableModelError, match="narrow"):
        oto_jax.prune(model.apply, variables, zigs)
    other = Configured(Widths((9, 14), 12)).init(jax.random.key(0), VECTORS)
    with pytest.raises(oto_jax.ZIGMismatchError, match="Dense_0/bias"):
        oto_jax.prune(model, other, zigs)
    broken = jax.tree.map(lambda x: x.at[0].set(jnp.nan), variables)
    with pytest.raises(oto_jax.NonFiniteParametersError, match="Dense_0/bias"):
        oto_jax.prune(model, broken, zigs)
