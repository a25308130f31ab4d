"""A target that cannot be met, or means nothing, is refused where it is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.optim.target import _asked, scopes
from oto_jax.prune.slicing import slice_variables
from tests.optim.test_kept_cost import two_layers
from tests.optim.trees import conv_tree


@pytest.mark.parametrize(
    "target, match",
    [
        (1.0, "at least 2 have to stay"),
        (0.9, "a group sparsity of 0.8181"),
        ({"inner": 0.95}, "space 'inner'"),
        (oto_jax.Target(group_sparsity=0.7, keep_at_least=0.5), "at least 6 have to stay"),
        (oto_jax.Target(kept=0.0), "kept="),
    ],
)
def test_impossible_targets_are_refused_at_construction(target, match):
    _, zigs = conv_tree()
    with pytest.raises(oto_jax.InfeasibleTargetError, match=match):
        oto_jax.hspg(0.1, zigs, target_group_sparsity=target, target_steps=10)


@given(st.integers(1, 400), st.integers(1, 2000))
def test_a_share_asks_for_the_same_count_in_any_precision(groups, numerator):
    """Through inject_hyperparams a share arrives in float32, traced or not."""
    share = numerator / 2000
    asked = {
        int(_asked(share, groups, np)),
        int(_asked(jnp.float32(share), groups, np)),
        int(_asked(jnp.float32(share), groups, jnp)),
    }
    assert len(asked) == 1
    assert abs(asked.pop() - share * groups) <= 0.5 + 1e-4


def test_a_first_state_of_a_cut_network_has_to_be_feasible():
    """`test_a_target_that_only_the_whole_network_can_meet` shows why the optimizer may not."""
    params, zigs = two_layers()
    dead = {**params, "a": params["a"].at[:, 0].set(0)}
    plan = oto_jax.make_plan(dead, zigs)
    params, zigs = slice_variables(dead, plan), oto_jax.shrink_zigs(zigs, plan)
    tx = oto_jax.hspg(0.1, zigs, target_group_sparsity=1.0, target_steps=10)
    with pytest.raises(oto_jax.InfeasibleTargetError, match="at least 2 have to stay"):
        tx.init(params)
    jax.eval_shape(tx.init, params)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"target_group_sparsity": -0.1}, "target_group_sparsity"),
        ({"target_group_sparsity": np.nan}, "target_group_sparsity"),
        ({"target_group_sparsity": {"nowhere": 0.5}}, "nowhere"),
        ({"target_steps": None}, "target_steps is missing"),
        ({"target_steps": 0}, "target_steps"),
        ({"target_steps": 20.5}, "target_steps must be a whole number"),
        ({"target_steps": 2**31}, "target_steps must be at least 1 and at most"),
        ({"target_group_sparsity": lambda step: 0.5}, "target_group_sparsity"),
        ({"upper_group_sparsity": jnp.asarray(0.5)}, "upper_group_sparsity"),
        ({"upper_group_sparsity": 0.5}, "upper_group_sparsity"),
        ({"epsilon": oto_jax.AdaptiveEpsilon()}, "epsilon"),
    ],
)
def test_bad_target_arguments_are_named(settings, match):
    _, zigs = conv_tree()
    arguments = {"target_group_sparsity": 0.5, "target_steps": 10, **settings}
    with pytest.raises(oto_jax.HyperparameterError, match=match):
        oto_jax.hspg(0.1, zigs, **arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"group_sparsity": 0.5, "kept": 0.5}, {"group_sparsity": 0.5, "costs": {}},
        {"kept": 1.5}, {"kept": 0.5, "fade": -1}, {"kept": 0.5, "memory": 1.0},
        {"kept": 0.5, "keep_at_least": 1.0}, {"kept": 0.5, "rounds": 0},
        {"kept": 0.5, "rounds": 2.5}, {"kept": 0.5, "saliency": "taylor"},
        {"kept": 0.5, "saliency": []}, {"kept": 0.5, "saliency": [(jnp.abs, np.nan)]},
        {"kept": lambda step: 0.5}, {"kept": 0.5, "fade": lambda step: 0.5},
        {"kept": 0.5, "costs": 3}, {"kept": 0.5, "costs": ["stem/kernel"]},
    ],
)  # fmt: skip
def test_bad_targets_are_refused(settings):
    with pytest.raises(oto_jax.HyperparameterError, match="Target"):
        oto_jax.Target(**settings)


@pytest.mark.parametrize(
    "costs",
    [
        {"nothing": 1.0}, {"stem/kernel": -1.0}, {"stem/kernel": 0.0}, {"stem/kernel": "x"},
        {"stem/kernel": 1e38}, {"stem/kernel": 1e-45},
    ],
)  # fmt: skip
def test_bad_costs_are_named(costs):
    _, zigs = conv_tree()
    with pytest.raises(oto_jax.HyperparameterError, match="cost"):
        scopes(oto_jax.Target(kept=0.5, costs=costs), zigs)


@pytest.mark.parametrize("scores", [lambda s: 1.0, lambda s: s.squared_norm[:1]])
def test_a_saliency_that_is_no_number_per_group_is_named(scores):
    params, zigs = conv_tree()
    target = oto_jax.Target(kept=0.5, saliency=scores)
    tx = oto_jax.hspg(0.1, zigs, target_group_sparsity=target, target_steps=10)
    with pytest.raises(oto_jax.HyperparameterError, match="saliency '<lambda>' gives scores"):
        tx.update(params, tx.init(params), params)
