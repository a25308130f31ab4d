"""What is left of a network when groups go, and in which order they are given up for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.optim.choice import choose
from oto_jax.optim.kept_cost import KeptCost, parameter_cost
from oto_jax.prune.slicing import slice_variables
from tests.optim.models import MODELS, problem
from tests.optim.trees import random_like

SPACES, LONGEST = 4, 9


def removed_by_cutting(zigs, params, counts):
    """Parameters left when the last ``counts`` units of each space are really cut out."""
    left = 0
    for leaf in zigs.parameters:
        keep = [np.ones(size, bool) for size in leaf.shape]
        for space in zigs.spaces:
            for member in space.axes:
                if member.path == leaf.path:
                    units = member.unit_of_position(leaf.shape[member.axis])
                    keep[member.axis] &= units < space.size - counts[space.name]
        left += np.prod([k.sum() for k in keep])
    return left


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
def test_kept_cost_equals_what_cutting_leaves(name, data):
    p = problem(name)
    counts = {s.name: data.draw(st.integers(0, s.size)) for s in p.zigs.spaces}
    cost = parameter_cost(p.zigs)
    removed = np.array([counts[s.name] for s in p.zigs.spaces], np.float64)
    assert cost(removed) == removed_by_cutting(p.zigs, p.params, counts)


@pytest.mark.parametrize("name", MODELS)
@given(data=st.data())
def test_savings_are_what_one_unit_more_takes_away(name, data):
    p = problem(name)
    cost = parameter_cost(p.zigs)
    removed = np.array([data.draw(st.integers(0, s.size - 1)) for s in p.zigs.spaces], np.float64)
    each = [cost(removed) - cost(removed + one) for one in np.eye(len(removed))]
    assert cost.savings(removed).tolist() == each


def two_layers():
    """A unit of ``a`` is 1 + 8 parameters, one of ``b`` 8 + 30."""
    shapes = {"a": (1, 8), "b": (8, 8), "c": (8, 30)}

    def f(params, x):
        for name in ("a", "b"):
            x = jnp.maximum(x @ params[name], 0)
        return x @ params["c"]

    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    return params, oto_jax.find_zigs(f, params, jnp.ones((1, 1)))


def worth(of_a, of_b):
    """A saliency of one number per space; the two are told apart by the entries of a group."""
    return lambda statistics: jnp.full(8, of_a if statistics.entries == 1 else of_b)


def given_up(params, zigs, target):
    """The spaces in which a single step puts groups to zero."""
    tx = oto_jax.hspg(1e-3, zigs, target_group_sparsity=target, target_steps=1)
    gradients = jax.tree.map(jnp.ones_like, params)
    _, state = jax.jit(tx.update)(gradients, tx.init(params), params)
    (projection,) = oto_jax.optim.zeros.projection_states(state)
    return [name for name, zero in projection.zero.items() if zero.any()]


@pytest.mark.parametrize("worth_of_b, first", [(1.0, "b"), (4.0, "b"), (5.0, "a")])
def test_per_cost_the_cheapest_loss_goes_first(worth_of_b, first):
    """Giving up a unit of ``a`` saves 9 parameters for a loss of 1, one of ``b`` saves 38."""
    params, zigs = two_layers()

    target = oto_jax.Target(kept=0.87, saliency=worth(1.0, worth_of_b), per_cost=True, fade=0.0)
    assert given_up(params, zigs, target) == [first]


@pytest.mark.parametrize("worth_of_a", [-1.0, 0.0, 1.0])
def test_what_saves_nothing_is_not_given_up_whatever_it_is_worth(worth_of_a):
    params, zigs = two_layers()
    target = oto_jax.Target(
        kept=0.5, costs={"c": 1.0}, saliency=worth(worth_of_a, 5.0), per_cost=True, fade=0.0
    )
    assert given_up(params, zigs, target) == ["b"]


@jax.jit
def choose_among(sizes, *arguments):
    counted = sizes.astype(jnp.float32)[:, None]
    cost = KeptCost(np.ones(SPACES), counted, np.eye(SPACES)[:, None, :])
    return choose(cost, sizes, *arguments)


@given(data=st.data())
def test_choice_meets_budgets_and_keeps_floors(data):
    sizes = np.array([data.draw(st.integers(1, LONGEST)) for _ in range(SPACES)])
    numbers = st.sampled_from([0.0, 1.0, 2.0, 3.5, np.inf, np.nan])
    count = SPACES * LONGEST
    scores = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)), np.float32)
    scores = scores.reshape(SPACES, LONGEST)
    floors = np.array([data.draw(st.integers(1, int(n))) for n in sizes])
    real = np.arange(LONGEST) < sizes[:, None]
    whole = int(sizes.sum())
    goal = data.draw(st.integers(int(floors.sum()), whole))
    chosen = np.zeros(scores.shape, bool)
    for budget in sorted({whole, (goal + whole) // 2, goal}, reverse=True):
        before, budget_, last = chosen, np.float32(budget), np.asarray(budget == goal)
        chosen = np.asarray(choose_among(sizes, scores, before, floors, budget_, last))
        assert np.all(chosen >= before)
        assert not np.any(chosen & ~real)
        assert np.all((real & ~chosen).sum(axis=1) >= floors)
        assert (real & ~chosen).sum() == budget
    # What was given up is worth no more than what stays and was free to go.
    worth = np.where(np.isnan(scores), np.inf, scores)
    for row, n in enumerate(sizes):
        kept = np.sort(worth[row][real[row] & ~chosen[row]])
        if chosen[row].any():
            assert worth[row][chosen[row]].max() <= kept[0], (row, n)


@given(st.lists(st.floats(0.1, 1e9), min_size=4, max_size=4))
def test_to_keep_all_is_to_cut_nothing_whatever_the_prices(prices):
    params, zigs = two_layers()
    costs = dict(zip(("a", "b", "c"), prices, strict=False))
    assert given_up(params, zigs, oto_jax.Target(kept=1.0, costs=costs)) == []


@pytest.mark.parametrize("saliency", ["magnitude", "squared_taylor"])
def test_per_cost_chooses_the_same_on_the_network_that_is_left(saliency):
    """A magnitude is told per entry of the full group: slim ones would change its scale."""
    params, zigs = two_layers()
    params = {name: random_like(params, i)[name] for i, name in enumerate(params)}
    dead = {**params, "a": params["a"].at[:, :4].set(0), "b": params["b"].at[:4].set(0)}
    plan = oto_jax.make_plan(dead, zigs)
    slim, left = slice_variables(dead, plan), oto_jax.shrink_zigs(zigs, plan)
    score = getattr(oto_jax.saliency, saliency)
    averages = []
    for groups, at in ((zigs, dead), (left, slim)):
        aim = oto_jax.Target(kept=0.5, saliency=score, per_cost=True)
        tx = oto_jax.hspg(1e-3, groups, target_group_sparsity=aim, target_steps=5)
        _, state = tx.update(at, tx.init(at), at)
        (projection,) = oto_jax.optim.zeros.projection_states(state)
        averages.append(projection.saliency)
    whole, cut = averages
    np.testing.assert_allclose(cut["a"], whole["a"][4:], rtol=1e-6)
    np.testing.assert_allclose(cut["b"], whole["b"], rtol=1e-6)
