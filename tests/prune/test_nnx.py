"""A pruned NNX model computes what the full one does, and is a module like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import oto_jax
from tests.prune.nnx_models import CASES, MLP, HardCoded, OwnAttention
from tests.prune.zeroing import random_groups, randomised, zero_groups


def run(model, x):
    """The model on ``x``, compiled as one."""
    return nnx.jit(lambda model, x: model(x))(model, x)


def masked(model, x, **options):
    """The model with random weights and half of its groups at zero, and its ZIGs."""
    nnx.update(model, randomised(nnx.state(model)))
    zigs = oto_jax.find_zigs(model, x, **options)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, zero_groups(params, zigs, random_groups(zigs)))
    return zigs


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_masked(name):
    with jax.enable_x64(True):
        case = CASES[name]
        model = case.model(nnx.Rngs(0))
        zigs = masked(model, case.inputs, **case.options)
        before = jax.tree.map(jnp.shape, nnx.state(model, nnx.Param))
        slim = oto_jax.prune(model, zigs)
        assert all(space.units.count < space.units.size for space in slim.plan.spaces)
        assert slim.plan.spaces
        full, given = run(model, case.inputs), run(slim.model, case.inputs)
        assert np.abs(full).max() > 1e-3
        assert np.abs(full - given).max() <= 1e-10 * np.abs(full).max()
        assert jax.tree.map(jnp.shape, nnx.state(model, nnx.Param)) == before
        assert type(slim.model) is type(model)


@pytest.mark.parametrize("kept", [(1, 6), (6, 1), (2, 4), (1, 1)])
def test_head_dimensions_of_queries_and_values_shrink_apart(kept):
    with jax.enable_x64(True):
        case = CASES["head_dim"]
        model = case.model(nnx.Rngs(0))
        nnx.update(model, randomised(nnx.state(model)))
        zigs = oto_jax.find_zigs(model, case.inputs, attention="head_dim")
        dead = [space.groups[size:] for space, size in zip(zigs.spaces, kept, strict=True)]
        params = nnx.state(model, nnx.Param)
        nnx.update(model, zero_groups(params, zigs, np.concatenate(dead)))
        slim = oto_jax.prune(model, zigs)
        assert [space.units.count for space in slim.plan.spaces] == list(kept)
        np.testing.assert_allclose(
            run(slim.model, case.inputs), run(model, case.inputs), rtol=1e-10
        )


class Attending(nnx.Module):
    """Flax's attention with options, called with options."""

    def __init__(self, rngs, options, call):
        self.attention = nnx.MultiHeadAttention(
            num_heads=4, in_features=16, qkv_features=24, decode=False, rngs=rngs, **options
        )
        self.call = call

    def __call__(self, x):
        return self.attention(x, **self.call(x))


@pytest.mark.parametrize(
    "options, call",
    [
        ({}, lambda x: {"mask": nnx.make_causal_mask(x[..., 0]).astype(bool)}),
        ({"num_kv_heads": 2}, lambda x: {}),
        ({"dropout_rate": 0.1, "deterministic": True}, lambda x: {}),
        ({"dtype": jnp.bfloat16}, lambda x: {}),
    ],
)
def test_head_dimensions_shrink_whatever_else_attention_does(options, call):
    x = CASES["head_dim"].inputs.astype(np.float32)
    model = Attending(nnx.Rngs(0), options, call)
    zigs = masked(model, x, attention="head_dim")
    slim = oto_jax.prune(model, zigs)
    assert slim.model.attention.head_dim < model.attention.head_dim
    full, given = (np.asarray(run(m, x), np.float32) for m in (model, slim.model))
    bound = 0.03 if "dtype" in options else 1e-5
    assert np.abs(full - given).max() <= bound * np.abs(full).max()


def test_attributes_say_the_new_widths():
    with jax.enable_x64(True):
        model = CASES["conv"].model(nnx.Rngs(0))
        slim = oto_jax.prune(model, masked(model, CASES["conv"].inputs)).model
    assert (slim.stem.out_features, slim.branch.in_features) == (4, 4)
    assert slim.depthwise.feature_group_count == slim.depthwise.out_features == 4
    assert slim.depthwise.kernel_shape == (3, 3, 1, 4)
    assert slim.grouped.feature_group_count == slim.norm.num_groups == 2
    assert slim.head.in_features == slim.up.out_features * 64


def test_state_may_be_given_apart():
    model = MLP(nnx.Rngs(0))
    x = CASES["mlp"].inputs.astype(np.float32)
    zigs = masked(model, x)
    state = nnx.state(model)
    slim = oto_jax.prune(MLP(nnx.Rngs(1)), state, zigs)
    np.testing.assert_allclose(run(slim.model, x), run(model, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(oto_jax.ZIGMismatchError, match="do not fit|first"):
        oto_jax.prune(MLP(nnx.Rngs(1)), nnx.state(MLP(nnx.Rngs(1), hidden=9)), zigs)


def test_slim_model_trains_and_is_pruned_again():
    model = MLP(nnx.Rngs(0))
    x = CASES["mlp"].inputs.astype(np.float32)
    slim = oto_jax.prune(model, masked(model, x)).model
    optimizer = nnx.Optimizer(slim, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda m: jnp.square(m(x) - 1).mean())(model)
        optimizer.update(model, gradients)
        return loss

    first = step(slim, optimizer)
    for _ in range(30):
        last = step(slim, optimizer)
    assert last < first
    zigs = masked(slim, x)
    slimmer = oto_jax.prune(slim, zigs).model
    np.testing.assert_allclose(run(slimmer, x), run(slim, x), rtol=1e-4, atol=1e-5)
    assert slimmer.first.out_features < slim.first.out_features


def test_hard_coded_shape_points_to_narrow():
    model = HardCoded(nnx.Rngs(0))
    x = CASES["mlp"].inputs.astype(np.float32)
    zigs = masked(model, x, unprunable=())
    if not zigs.spaces:
        pytest.skip("discovery finds no space through these reshapes")
    with pytest.raises(oto_jax.UnprunableModelError, match=r"oto_jax\.narrow"):
        oto_jax.prune(model, zigs)


def test_width_inside_a_formula_is_refused():
    model = OwnAttention(nnx.Rngs(0))
    x = CASES["own_attention"].inputs.astype(np.float32)
    zigs = masked(model, x, attention="head_dim")
    with pytest.raises(oto_jax.UnprunableModelError, match="not the same model"):
        oto_jax.prune(model, zigs)
