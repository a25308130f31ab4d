"""Target mode is a contract: the asked groups are zero at the window's end, and stay so."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import oto_jax
from oto_jax.optim.kept_cost import parameter_cost
from oto_jax.optim.target import scopes
from tests.optim.models import MODELS, problem
from tests.optim.test_kept_cost import removed_by_cutting, two_layers
from tests.optim.trees import TREES, conv_tree, random_like

START, WINDOW, STEPS = 4, 12, 24
GRID = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
BASES = {
    "sgd": lambda: optax.sgd(0.05, momentum=0.9),
    "adamw": lambda: optax.adamw(3e-3),
    "lion": lambda: optax.lion(1e-3),
}


def zero_counts(params, zigs, tx, gradient, steps=STEPS):
    """The number of zero groups after every step, by space: a dict of int arrays."""

    def step(carry, t):
        params, state = carry
        updates, state = tx.update(gradient(params, t), state, params)
        params = optax.apply_updates(params, updates)
        shares = oto_jax.group_sparsity(params, zigs).per_space
        return (params, state), shares

    (params, state), shares = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
    sizes = {space.name: space.size for space in zigs.spaces}
    return params, state, {k: jnp.round(v * sizes[k]).astype(int) for k, v in shares.items()}


def wave(params, t):
    """A cheap gradient that changes with the step."""
    return jax.tree.map(lambda x: jnp.sin(7 * x + t), params)


@functools.cache
def contract_run(model, base):
    """Counts of zero groups in a run, jitted as a function of the asked share."""
    p = problem(model)

    @jax.jit
    def run(share):
        tx = oto_jax.pass_gradient(
            optax.chain(
                oto_jax.add_group_lasso(1e-3, p.zigs),
                BASES[base](),
                oto_jax.project_half_space(
                    p.zigs, start_step=START, target_group_sparsity=share, target_steps=WINDOW
                ),
            )
        )
        return zero_counts(p.params, p.zigs, tx, jax.grad(p.loss))[2]

    return p.zigs, run


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("model", MODELS)
def test_contract_over_models_optimizers_and_targets(model, base):
    zigs, run = contract_run(model, base)
    for share in GRID:
        by_space = jax.tree.map(np.asarray, run(jnp.float32(share)))
        total = sum(by_space.values())
        asked = round(share * zigs.num_groups)
        assert np.all(total[:START] == 0)
        assert total[START + WINDOW - 1] == total[-1] == asked, (model, base, share)
        assert np.all(np.diff(total) >= 0)
        assert np.all(total[START + WINDOW - 1 :] == asked)
        assert all(by_space[space.name][-1] < space.size for space in zigs.spaces)


@pytest.mark.parametrize("window", [1, 2, 7])
@pytest.mark.parametrize("fade", [0.0, 0.5, 1.0])
def test_window_and_fade_of_any_length(window, fade):
    p = problem("perceptron")
    target = oto_jax.Target(group_sparsity=0.6, fade=fade)
    tx = oto_jax.hspg(
        0.05, p.zigs, momentum=0.9, start_step=2, target_group_sparsity=target, target_steps=window
    )
    params, state, counts = zero_counts(p.params, p.zigs, tx, wave, steps=12)
    total = np.asarray(sum(counts.values()))
    assert total[1 + window] == total[-1] == 42
    assert np.all(np.diff(total) >= 0)
    oto_jax.check_zeros(params, p.zigs, state)


@pytest.mark.parametrize("window", [5, 7, 30])
def test_rounds_bound_how_often_groups_are_chosen(window):
    params, zigs = conv_tree()
    target = oto_jax.Target(group_sparsity=0.7, fade=0.0, rounds=3)
    tx = oto_jax.hspg(0.05, zigs, target_group_sparsity=target, target_steps=window)
    *_, counts = zero_counts(params, zigs, tx, wave, steps=window + 10)
    total = np.asarray(sum(counts.values()))
    assert len(set(total.tolist()) - {0}) <= 3
    assert total[window - 1] == total[-1] == round(0.7 * 11)


def test_chosen_groups_shrink_evenly():
    params, zigs = conv_tree()
    target = oto_jax.Target(group_sparsity=0.5, fade=1.0)
    tx = oto_jax.project_half_space(zigs, target_group_sparsity=target, target_steps=8)
    state, update = tx.init(params), jax.jit(tx.update)
    still = jax.tree.map(jnp.zeros_like, params)
    start, norms = params, []
    for _ in range(8):
        updates, state = update(still, state, params)
        params = optax.apply_updates(params, updates)
        norms.append(params["stem"]["kernel"][..., 0] / start["stem"]["kernel"][..., 0])
        chosen = np.asarray(state.chosen_at["stream"]) == 0
    assert chosen.sum() + (np.asarray(state.chosen_at["inner"]) == 0).sum() == round(0.5 * 11)
    kept = params["stem"]["kernel"] / start["stem"]["kernel"]
    np.testing.assert_allclose(kept[..., ~chosen], 1, rtol=1e-6)
    np.testing.assert_array_equal(kept[..., chosen], 0)
    if chosen[0]:
        means = [float(x.mean()) for x in norms]
        np.testing.assert_allclose(means, [1 - (i + 1) / 8 for i in range(8)], atol=1e-6)


def test_targets_by_space():
    p = problem("residual")
    shares = {"Conv_0": 0.25, "*_1": 0.8}
    tx = oto_jax.hspg(0.05, p.zigs, target_group_sparsity=shares, target_steps=6)
    _, _, counts = zero_counts(p.params, p.zigs, tx, wave, steps=8)
    assert {k: int(v[-1]) for k, v in counts.items()} == {"Conv_0": 6, "Conv_1": 16, "Conv_3": 0}
    assert {k: int(v[5]) for k, v in counts.items()} == {"Conv_0": 6, "Conv_1": 16, "Conv_3": 0}


@pytest.mark.parametrize("kept", [0.7, 0.4, 0.15])
@pytest.mark.parametrize("name", MODELS)
def test_kept_share_of_parameters_is_met(name, kept):
    p = problem(name)
    least = scopes(oto_jax.Target(kept=1.0), p.zigs)[0]
    floor = least.cost(np.array([s.size - 1.0 for s in p.zigs.spaces])) / least.full
    if kept < floor:
        pytest.skip(f"{name} keeps at least {floor:.2f} of its parameters")
    tx = oto_jax.hspg(0.05, p.zigs, target_group_sparsity=oto_jax.Target(kept=kept), target_steps=6)
    *_, counts = zero_counts(p.params, p.zigs, tx, wave, steps=9)
    at_end = removed_by_cutting(p.zigs, p.params, {k: int(v[5]) for k, v in counts.items()})
    total = sum(leaf.size for leaf in p.zigs.parameters)
    assert abs(at_end / total - kept) <= 0.01
    assert all(int(v[5]) == int(v[-1]) for v in counts.values())


def test_kept_share_of_macs():
    p = problem("residual")
    costs = {f"Conv_{i}/kernel": 36.0 for i in range(5)} | {"params/Dense_0/kernel": 1.0}
    target = oto_jax.Target(kept=0.5, costs=costs)
    tx = oto_jax.hspg(0.05, p.zigs, target_group_sparsity=target, target_steps=5)
    _, _, counts = zero_counts(p.params, p.zigs, tx, wave, steps=5)
    cost = parameter_cost(p.zigs, costs)
    removed = np.array([float(v[-1]) for v in counts.values()])
    assert cost(np.zeros(3)) == 36 * 9 * (2 * 24 + 4 * 24 * 20) + 24 * 5
    assert abs(cost(removed) / cost(np.zeros(3)) - 0.5) <= 0.02


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("settings", [
    {"target_group_sparsity": 0.25, "target_steps": 3}, {"upper_group_sparsity": 0.25},
])  # fmt: skip
def test_rounding_puts_no_group_to_zero_that_is_not_counted(dtype, settings):
    """The lasso's step ends a hair from zero, which half precision cannot tell from zero."""
    params, zigs = two_layers()
    params = {name: (jnp.ones_like(x) / 8).astype(dtype) for name, x in params.items()}
    gradients = jax.tree.map(jnp.zeros_like, params)
    tx = oto_jax.hspg(0.125, zigs, lmbda=1.0, zero_dependents=False, **settings)  # b's is sqrt(8)
    params = {**params, "b": params["b"] / 8**0.5}
    state = tx.init(params)
    for _ in range(4):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert int(oto_jax.group_sparsity(params, zigs).zero_groups) == 4


@pytest.mark.parametrize("name", TREES)
def test_saliencies_choose_what_they_say(name):
    params, zigs = TREES[name]()
    gradient = random_like(params, 3)
    user = lambda statistics: -jnp.arange(statistics.squared_norm.size, dtype=jnp.float32)  # noqa: E731
    seen = {}
    for saliency in (
        oto_jax.saliency.magnitude, oto_jax.saliency.taylor, oto_jax.saliency.squared_taylor,
        oto_jax.saliency.cosine, user,
        ((oto_jax.saliency.taylor, 1.0), (oto_jax.saliency.magnitude, 0.5)),
    ):  # fmt: skip
        target = oto_jax.Target(group_sparsity=0.3, saliency=saliency)
        tx = oto_jax.hspg(1e-3, zigs, target_group_sparsity=target, target_steps=1)
        _, state = jax.jit(tx.update)(gradient, tx.init(params), params)
        (projection,) = oto_jax.optim.zeros.projection_states(state)
        assert sum(int(z.sum()) for z in projection.zero.values()) == round(0.3 * zigs.num_groups)
        seen[str(saliency)] = {k: v.tolist() for k, v in projection.zero.items()}
    assert len({str(zero) for zero in seen.values()}) > 3
    for zero in seen[str(user)].values():  # Scores fall with the number: the last go first.
        assert sorted(zero) == zero


def test_gradients_that_are_not_finite_put_nothing_to_zero_and_spoil_no_saliency():
    params, zigs = conv_tree()
    tx = oto_jax.hspg(1e-3, zigs, target_group_sparsity=0.5, target_steps=4)
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    good, state = random_like(params, 3), tx.init(params)
    _, state = tx.update(good, state, params)
    before = state
    _, state = tx.update(bad, state, params)
    (projection,) = oto_jax.optim.zeros.projection_states(state)
    (earlier,) = oto_jax.optim.zeros.projection_states(before)
    for name in projection.zero:
        assert np.all(np.asarray(projection.zero[name]) <= np.asarray(earlier.zero[name]))
        assert np.all(np.isfinite(projection.saliency[name]))


@pytest.mark.parametrize(
    "saliency",
    [
        oto_jax.saliency.magnitude,
        [(oto_jax.saliency.magnitude, -1.0)],
        lambda statistics: jnp.zeros_like(statistics.squared_norm),
    ],
    ids=["magnitude", "the largest first", "all alike"],
)
def test_groups_zero_from_the_start_count_whatever_the_saliency(saliency):
    params, zigs = conv_tree()
    params = {**params, "inner": {"kernel": params["inner"]["kernel"].at[..., 1].set(0)}}
    params["norm"] = jax.tree.map(lambda x: x.at[1].set(0), params["norm"])
    target = oto_jax.Target(group_sparsity=0.3, saliency=saliency)
    tx = oto_jax.hspg(1e-3, zigs, target_group_sparsity=target, target_steps=2)
    # Nothing moves the zero group: if it is not chosen, it is one too many at the end.
    gradient = jax.tree.map(lambda x, y: jnp.where(x == 0, 0, y), params, random_like(params, 3))
    _, state, counts = zero_counts(params, zigs, tx, lambda p, t: gradient, steps=3)
    assert sum(int(v[-1]) for v in counts.values()) == 3
    assert bool(state[2].zero["inner"][1])


def with_a_part_zero():
    """A perceptron that was pruned before: 8 of 12 groups of a layer, and what reads them."""
    model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(12), nn.relu, nn.Dense(3)])
    x = jax.random.normal(jax.random.key(1), (64, 6))
    params = model.init(jax.random.key(0), x)["params"]
    zigs = oto_jax.find_zigs(model, {"params": params}, x)
    params["layers_2"] = jax.tree.map(lambda v: v.at[..., 4:].set(0), params["layers_2"])
    params["layers_4"]["kernel"] = params["layers_4"]["kernel"].at[4:].set(0)
    return model, params, zigs, x


def trained(model, params, zigs, x, tx, state):
    """The parameters after steps through the whole window and beyond."""

    @jax.jit
    def step(params, state):
        gradient = jax.grad(
            lambda p: jnp.mean(jnp.square(model.apply({"params": p}, x) - x[:, :3]))
        )
        updates, state = tx.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(STEPS):
        params, state = step(params, state)
    return params, int(oto_jax.group_sparsity(params, zigs).zero_groups)


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"group_sparsity": 0.5}, 14),
        # Five of the twelve have to stay, and only four are alive.
        ({"group_sparsity": 0.5, "keep_at_least": 0.4}, 14),
        ({"group_sparsity": 8 / 28, "saliency": [(oto_jax.saliency.magnitude, -1.0)]}, 8),
        ({"kept": 0.25}, None),
        ({"kept": 0.25, "per_cost": True, "rounds": 1}, None),
    ],
    ids=[
        "half",
        "a floor above the living",
        "the largest first",
        "parameters",
        "at once, per cost",
    ],
)
def test_groups_zero_before_the_window_may_be_cut_before_it(settings, asked):
    """They count from its first step on, so the rest trains as if they were not there."""
    with jax.enable_x64(True):
        model, params, zigs, x = with_a_part_zero()

        def hspg(groups):
            target = oto_jax.Target(**settings)
            return oto_jax.hspg(
                0.05, groups, momentum=0.9, start_step=START, target_group_sparsity=target,
                target_steps=WINDOW,
            )  # fmt: skip

        tx = hspg(zigs)
        whole, zero = trained(model, params, zigs, x, tx, tx.init(params))
        slim = oto_jax.prune(model, {"params": params}, zigs)
        assert slim.plan.units("layers_2").count == 4
        state = oto_jax.shrink(tx.init(params), slim.plan)
        left = oto_jax.shrink_zigs(zigs, slim.plan)
        narrow, more = trained(slim.model, slim.variables["params"], left, x, hspg(left), state)
        assert zero == 8 + more
        assert asked in (None, zero)
        widened = oto_jax.widen({"params": narrow}, slim.plan)["params"]
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
        jax.tree.map(close, widened, whole)


def test_a_target_that_only_the_whole_network_can_meet_holds_after_cutting():
    """0.95 of what is left would empty a space; the state knows what the share was one of."""
    model, x = MODELS["perceptron"], jnp.ones((1, 2, 2, 3))
    variables = model.init(jax.random.key(0), x)
    zigs = oto_jax.find_zigs(model, variables, x)

    def hspg(groups):
        return oto_jax.hspg(0.05, groups, target_group_sparsity=0.95, target_steps=WINDOW)

    params, state, counts = zero_counts(variables["params"], zigs, hspg(zigs), wave, WINDOW)
    assert sum(int(of_space[-1]) for of_space in counts.values()) == round(0.95 * 70)
    slim = oto_jax.prune(model, {"params": params}, zigs)
    state, left = oto_jax.shrink(state, slim.plan), oto_jax.shrink_zigs(zigs, slim.plan)
    with pytest.raises(oto_jax.InfeasibleTargetError):
        hspg(oto_jax.find_zigs(slim.model, slim.variables, x))
    params = slim.variables["params"]
    updates, _ = hspg(left).update(wave(params, WINDOW), state, params)
    params = optax.apply_updates(params, updates)
    assert oto_jax.group_sparsity(params, left).zero_groups == 0
