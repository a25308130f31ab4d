"""Part after part: nothing may change but the order in which a CPU works."""

import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

import oto_jax
from oto_jax.optim import parts
from tests.optim.handmade import handmade_zigs, plain_run
from tests.optim.trees import TREES, random_like

STEPS = 40
SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9, "start_step": 10},
    "per space": {"momentum": 0.9, "epsilon": {"*e*": 0.9, "*": 0.5}, "upper_group_sparsity": 0.5},
    "adaptive": {"epsilon": oto_jax.AdaptiveEpsilon(every=5), "upper_group_sparsity": 0.8},
}


def train(params, zigs, **settings):
    """Parameters and state after some steps towards 0.01, compiled."""
    tx = oto_jax.hspg(0.1, zigs, lmbda=0.3, **settings)

    @jax.jit
    def step(params, state):
        gradient = jax.tree.map(lambda x: x - jnp.asarray(0.01, x.dtype), params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", TREES)
def test_part_after_part_is_the_same_training(name, settings, monkeypatch):
    with jax.enable_x64(True):
        params, zigs = TREES[name]()
        whole = train(params, zigs, **settings)
        monkeypatch.setattr(parts, "LEAST_ENTRIES", 1)
        monkeypatch.setattr(parts, "LEAST_ENTRIES_TO_WAIT", 1)
        assert len(parts.split(zigs, 1)) > 1
        in_parts = train(params, zigs, **settings)
    assert jax.tree.structure(in_parts) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(in_parts), jax.tree.leaves(whole), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    zero = [x for x in jax.tree.leaves(whole[1]) if x.dtype == bool]
    assert any(x.any() for x in zero)


@pytest.mark.usefixtures("small_as_large")
def test_each_part_waits_for_the_one_before_on_a_cpu():
    params, zigs = TREES["conv"]()
    tx = oto_jax.hspg(0.1, zigs)
    program = jax.jit(tx.update).trace(params, tx.init(params), params)
    on_cpu, on_gpu = (program.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda"))
    assert "0x7FC00000" in on_cpu  # The NaN of the factor that is always 1.
    assert "0x7FC00000" not in on_gpu
    if jax.default_backend() == "cpu":
        compiled = program.lower().compile().as_text()
        assert "constant(nan)" in compiled  # XLA has not seen through it.


@pytest.mark.usefixtures("small_as_large")
def test_updates_that_vary_over_devices_stay_whole():
    params, zigs = TREES["dense"]()
    tx = oto_jax.hspg(0.1, zigs, momentum=0.9)
    replicas = jax.tree.map(lambda x: x[None], (params, tx.init(params), params))
    of_one = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    spec = jax.P("replica")
    update = jax.shard_map(
        lambda *a: jax.tree.map(lambda x: x[None], tx.update(*map(of_one, a))),
        mesh=jax.sharding.Mesh(jax.devices()[:1], ("replica",)),
        in_specs=spec,
        out_specs=spec,
    )
    expected = jax.jit(tx.update)(params, tx.init(params), params)
    for a, b in zip(
        jax.tree.leaves(of_one(jax.jit(update)(*replicas))), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.usefixtures("small_as_large")
def test_spaces_are_not_mistaken_for_patterns():
    params = {"a": jnp.ones((2, 4)), "b": jnp.ones((3, 5))}
    zigs = handmade_zigs(params, {"w?": [("a", 1)], "wb": [("b", 1)]})
    tx = oto_jax.hspg(0.1, zigs, lmbda=0.0, epsilon={"wb": 0.95})
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)  # Everything becomes 0.9.
    assert jax.tree.map(lambda u: bool((1 + u == 0).all()), updates) == {"a": False, "b": True}


@pytest.mark.usefixtures("small_as_large")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_cap_on_one_space_leaves_the_others_alone(compiled):
    """In half precision, a step that ends close to zero is rounded to zero where no one counts."""
    params = {name: jnp.full((2, 4), 1.0, jnp.bfloat16) for name in "ab"}
    gradient = jax.tree.map(lambda x: x * 0.9999, params)
    zigs = handmade_zigs(params, {name: [(name, 1)] for name in "ab"})
    tx = oto_jax.hspg(1.0, zigs, lmbda=0.0, upper_group_sparsity={"a": 0.5})
    update = jax.jit(tx.update) if compiled else tx.update
    updates, _ = update(gradient, tx.init(params), params)
    alive = jax.tree.map(lambda x, u: int(jnp.count_nonzero(x + u)), params, updates)
    assert alive == {"a": 8, "b": 0}


class Layer(typing.NamedTuple):
    """The path of ``value`` is that of the layer, for boxes have such a field too."""

    value: jax.Array
    scale: jax.Array


@pytest.mark.usefixtures("small_as_large")
def test_a_path_may_lead_through_another():
    params = {"a": Layer(jnp.ones((2, 4)), jnp.ones(4)), "b": jnp.ones((3, 5))}
    zigs = handmade_zigs(params, {"a": [("a", 1), ("a/scale", 0)], "b": [("b", 1)]})
    tx = oto_jax.hspg(0.1, zigs)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_a_state_of_other_settings_is_taken_as_without_jit(monkeypatch):
    params, zigs = TREES["dense"]()
    monkeypatch.setattr(parts, "LEAST_ENTRIES", 1)
    state = oto_jax.hspg(0.1, zigs).init(params)
    tx = oto_jax.hspg(0.1, zigs, upper_group_sparsity=0.5)
    eager, compiled = tx.update(params, state, params), jax.jit(tx.update)(params, state, params)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.usefixtures("small_as_large")
def test_what_is_outside_of_every_part_is_trained_as_well():
    params = {"a": jnp.ones((2, 4)), "b": jnp.ones((3, 5)), "alone": jnp.ones(7)}
    zigs = handmade_zigs(params, {"a": [("a", 1)], "b": [("b", 1)]})
    tx = oto_jax.hspg(0.5, zigs, momentum=0.9)
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["alone"], np.full(7, -0.5, np.float32))
    np.testing.assert_array_equal(optax.tree.get(state, "trace")["alone"], np.ones(7))


@pytest.mark.usefixtures("small_as_large")
def test_errors_are_those_of_the_whole():
    params, zigs = TREES["dense"]()
    tx = oto_jax.hspg(0.1, zigs)
    update, state = jax.jit(tx.update), tx.init(params)
    with pytest.raises(ValueError, match="not passing `params`"):
        update(params, state)
    with pytest.raises(oto_jax.ZIGMismatchError, match="gradients have 'params/head/kernel'"):
        update({"params": params}, state, params)
    with pytest.raises(oto_jax.ZIGMismatchError, match="no 'one/bias'"):
        update({"two": params["two"], "one": {"kernel": params["one"]["kernel"]}}, state, params)


@pytest.mark.usefixtures("small_as_large")
@pytest.mark.parametrize(
    "box",
    [lambda x: nn.Partitioned(x, (None,) * x.ndim), nnx.Param, lambda x: x],
    ids=["Linen", "NNX", "bare"],
)
def test_arrays_may_lie_in_boxes_and_the_root_be_there(box):
    params, zigs = TREES["attention"]()
    tx = oto_jax.hspg(0.1, zigs, momentum=0.9)
    expected, _ = jax.jit(tx.update)(params, tx.init(params), params)
    boxed = jax.tree.map(box, params)
    updates, state = jax.jit(tx.update)(boxed, tx.init(boxed), boxed)
    assert jax.tree.structure(updates) == jax.tree.structure(boxed)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(boxed))
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@st.composite
def spaces(draw):
    """Arrays with runs of several spaces on one axis, and spaces over several arrays."""
    params, members = {}, {}
    for i in range(draw(st.integers(1, 6))):
        pieces = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True))
        width = 3
        params[f"p{i}"] = jnp.zeros((draw(st.integers(1, 9)), width * len(pieces)))
        for at, name in enumerate(pieces):
            run = plain_run(width, offset=at * width)
            members.setdefault(name, []).append((f"p{i}", 1, (run,)))
    return random_like(params, 0), handmade_zigs(params, members)


@given(spaces(), st.integers(1, 200))
def test_parts_hold_every_space_once_and_share_no_parameter(tree, least):
    _, zigs = tree
    found = parts.split(zigs, least)
    assert sorted(s.name for part in found for s in part.spaces) == sorted(
        s.name for s in zigs.spaces
    )
    paths = [set(part.members_by_path) for part in found]
    assert sum(map(len, paths)) == len(set.union(*paths))
    sizes = {leaf.path: leaf.size for leaf in zigs.parameters}
    assert all(sum(map(sizes.get, of_part)) >= least for of_part in paths[:-1])
    assert parts.split(zigs, least) == found
