"""Two cuts, one after the other, are one cut."""

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import oto_jax
from oto_jax.prune.plan import plan_of_units
from oto_jax.prune.slicing import slice_variables
from tests.prune.linen_models import CASES
from tests.prune.nnx_models import CASES as NNX_CASES
from tests.prune.test_nnx import masked
from tests.prune.test_shrink_zigs import layouts
from tests.prune.zeroing import half_zero, randomised


@given(layouts(), st.data())
def test_slicing_twice_is_slicing_by_the_composed_plan(layout, data):
    params, zigs, kept = layout
    params = {name: np.arange(array.size).reshape(array.shape) for name, array in params.items()}
    first = plan_of_units(params, zigs, kept)
    slim_zigs = oto_jax.shrink_zigs(zigs, first)
    again = {
        space.name: sorted(data.draw(st.sets(st.integers(0, space.size - 1), min_size=1)))
        for space in slim_zigs.spaces
    }
    once = slice_variables(params, first)
    second = plan_of_units(once, slim_zigs, again)
    composed = oto_jax.compose_plans(first, second)
    slim = slice_variables(once, second)
    jax.tree.map(np.testing.assert_array_equal, slim, slice_variables(params, composed))
    assert oto_jax.shrink_zigs(zigs, composed) == oto_jax.shrink_zigs(slim_zigs, second)
    wide = oto_jax.widen(slice_variables(params, composed), composed)
    jax.tree.map(
        np.testing.assert_array_equal, wide, oto_jax.widen(oto_jax.widen(slim, second), first)
    )


@pytest.mark.parametrize("name", ["residual", "configured", "own_attention", "head_dim"])
def test_a_model_pruned_twice_loads_into_the_full_one(name, tmp_path):
    case = CASES[name]
    inputs = tuple(np.asarray(x, np.float32) for x in case.inputs)
    variables = randomised(jax.eval_shape(case.model.init, jax.random.key(0), *inputs))
    zigs = oto_jax.find_zigs(case.model, variables, *inputs, **case.options)
    first = oto_jax.prune(case.model, half_zero(variables, zigs, share=0.3), zigs)
    slim_zigs = oto_jax.shrink_zigs(zigs, first.plan)
    second = oto_jax.prune(first.model, half_zero(first.variables, slim_zigs), slim_zigs)
    plan = oto_jax.compose_plans(first.plan, second.plan)
    oto_jax.save(tmp_path / "slim", oto_jax.Pruned(second.model, second.variables, plan))
    again = oto_jax.load(tmp_path / "slim", case.model)
    np.testing.assert_array_equal(
        again.model.apply(again.variables, *inputs), second.model.apply(second.variables, *inputs)
    )


def test_an_nnx_model_pruned_twice_loads_into_the_full_one(tmp_path):
    case = NNX_CASES["head_dim"]
    x = case.inputs.astype(np.float32)
    model = case.model(nnx.Rngs(0))
    first = oto_jax.prune(model, masked(model, x, **case.options))
    second = oto_jax.prune(first.model, masked(first.model, x, **case.options))
    plan = oto_jax.compose_plans(first.plan, second.plan)
    oto_jax.save(tmp_path / "slim", oto_jax.Pruned(second.model, second.variables, plan))
    again = oto_jax.load(tmp_path / "slim", case.model(nnx.Rngs(1)))
    np.testing.assert_array_equal(again.model(x), second.model(x))


def test_plans_that_do_not_follow_each_other_are_named():
    params = {"a": np.ones((2, 4)), "b": np.ones((4, 3))}
    from tests.prune.hand_made import plain, zigs_of

    zigs = zigs_of(params, [("a", 4, [plain(("a",), 1, 4)], [plain(("b",), 0, 4)])])
    plan = plan_of_units(params, zigs, {"a": [0, 2]})
    with pytest.raises(oto_jax.ZIGMismatchError, match="left with 2 units"):
        oto_jax.compose_plans(plan, plan)
    renamed = tuple(dataclasses.replace(space, name="heads") for space in plan.spaces)
    with pytest.raises(oto_jax.ZIGMismatchError, match="space 'heads'.*shrink_zigs"):
        oto_jax.compose_plans(plan, dataclasses.replace(plan, spaces=renamed))
    other = oto_jax.Plan((), plan.arrays, ())
    with pytest.raises(oto_jax.ZIGMismatchError, match="'a' was left at"):
        oto_jax.compose_plans(plan, other)
