"""Plans keep what is not bitwise zero, and at least one unit of each space."""

import json

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import oto_jax
from oto_jax.prune.plan import Cut, Override, Plan, kept_units, make_plan, plan_of_units
from oto_jax.prune.slicing import slice_variables
from oto_jax.zigs.call import Call
from oto_jax.zigs.partition import Member, Run
from tests.prune.hand_made import flattened, plain, zigs_of


def dense_pair(hidden=6):
    params = {
        "a": {"kernel": np.ones((3, hidden)), "bias": np.ones(hidden)},
        "b": {"kernel": np.ones((hidden, 2))},
    }
    members = [plain(("a", "kernel"), 1, hidden), plain(("a", "bias"), 0, hidden)]
    zigs = zigs_of(params, [("a", hidden, members, [plain(("b", "kernel"), 0, hidden)])])
    return params, zigs


def kill(params, units):
    params = jax.tree.map(np.copy, params)
    params["a"]["kernel"][:, units] = 0
    params["a"]["bias"][units] = 0
    return params


@given(st.sets(st.integers(0, 40)), st.integers(41, 60))
def test_cut_keeps_the_positions_it_was_given(positions, size):
    cut = Cut.of(size, positions)
    assert cut.positions.tolist() == sorted(positions)
    assert cut.count == len(positions)
    assert cut.whole == (len(positions) == size)


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.integers(1, 20))
def test_kept_units_are_the_living_and_the_fewest_others(alive, round_to):
    living = np.flatnonzero(alive)
    kept = kept_units(living, len(alive), round_to)
    assert set(living) <= set(kept)
    assert len(set(kept)) == len(kept) >= 1
    assert len(kept) % round_to == 0 or len(kept) == len(alive)
    smaller = len(kept) - round_to
    assert smaller < max(len(living), 1) or (len(kept) == len(alive) and len(kept) % round_to)
    added = sorted(set(kept) - set(living))
    dead = [unit for unit in range(len(alive)) if not alive[unit]]
    assert added == dead[: len(added)]


@given(
    st.sets(st.integers(0, 5), max_size=5), st.sampled_from([np.float32, np.float64, "bfloat16"])
)
def test_exactly_the_zero_units_go(dead, dtype):
    params, zigs = dense_pair()
    params = jax.tree.map(lambda x: x.astype(dtype), kill(params, sorted(dead)))
    plan = make_plan(params, zigs)
    assert set(range(6)) - set(plan.units("a").positions) == dead
    assert plan.kept_groups.tolist() == plan.units("a").positions.tolist()
    slim = slice_variables(params, plan)
    assert slim["b"]["kernel"].shape == (6 - len(dead), 2)


def test_negative_zero_is_zero_and_the_smallest_number_is_not():
    for convert in (np.asarray, jnp.asarray):
        params, zigs = dense_pair()
        params = kill(params, [1, 2])
        params["a"]["kernel"][:, 1] = -0.0
        params["a"]["kernel"][0, 2] = np.finfo(np.float32).smallest_subnormal
        params = jax.tree.map(lambda x, convert=convert: convert(x.astype(np.float32)), params)
        assert make_plan(params, zigs).units("a").positions.tolist() == [0, 2, 3, 4, 5]


def test_one_member_that_is_not_zero_keeps_the_unit():
    params, zigs = dense_pair()
    params = kill(params, [3])
    params["a"]["bias"][3] = 1
    assert make_plan(params, zigs).whole


def test_an_empty_space_keeps_its_first_unit_and_says_so():
    params, zigs = dense_pair()
    plan = make_plan(kill(params, list(range(6))), zigs)
    assert plan.units("a").positions.tolist() == [0]
    assert plan.spaces[0].emptied
    assert "all zero" in repr(plan)


def test_flattened_positions_go_with_their_channel():
    params = {"conv": np.ones((1, 3)), "dense": np.ones((12, 2))}
    dependents = [flattened(("dense",), 0, 4, 3)]
    zigs = zigs_of(params, [("conv", 3, [plain(("conv",), 1, 3)], dependents)])
    params["conv"][:, 1] = 0
    plan = make_plan(params, zigs)
    assert plan.by_path[("dense",)].cuts[0][1].positions.tolist() == [0, 2, 3, 5, 6, 8, 9, 11]


def test_a_position_stays_only_if_every_space_that_covers_it_keeps_it():
    heads = Member(("w",), 0, (Run(0, (2, 3), (3, 1), 0),))
    depth = Member(("w",), 0, (Run(0, (2, 3), (3, 1), 1),))
    params = {"h": np.ones(2), "d": np.ones(3), "w": np.arange(6.0)}
    zigs = zigs_of(
        params, [("h", 2, [plain(("h",), 0, 2)], [heads]), ("d", 3, [plain(("d",), 0, 3)], [depth])]
    )
    plan = plan_of_units(params, zigs, {"h": [1], "d": [0, 2]})
    assert slice_variables(params, plan)["w"].tolist() == [3.0, 5.0]


@given(st.sets(st.integers(0, 5), max_size=5), st.integers(1, 4))
def test_json_brings_back_the_same_plan(dead, round_to):
    params, zigs = dense_pair()
    plan = make_plan(kill(params, sorted(dead)), zigs, round_to=round_to)
    call = Call.of(
        np.ones((2, 3), np.float32), {"key": jax.random.key(0)}, train=False, rate=(1, None)
    )
    overrides = (Override(("a",), ("features",), 3), Override((), ("shape",), (3, 4)))
    plan = Plan(plan.spaces, plan.arrays, ("params",), "widths", overrides, call)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.call is not None
    assert again.call.arrays() == call.arrays()
    assert again.call.kwargs == call.kwargs


def test_a_call_that_has_no_json_form_is_left_out():
    params, zigs = dense_pair()
    plan = make_plan(params, zigs)
    plan = Plan(plan.spaces, plan.arrays, (), call=Call.of(np.ones(3), method=len))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))).call is None


def test_works_on_arrays_sharded_over_devices():
    params, zigs = dense_pair()
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = jax.device_put(kill(params, [0]), sharding)
    plan = make_plan(params, zigs)
    slim = slice_variables(params, plan)
    assert slim["a"]["bias"].shape == (5,)
    assert slim["a"]["bias"].sharding == sharding


def test_bad_input_is_named():
    params, zigs = dense_pair()
    with pytest.raises(oto_jax.UnprunableModelError, match="no group"):
        make_plan(params, zigs_of(params, []))
    assert make_plan(params, zigs, round_to=np.int64(2)) == make_plan(params, zigs, round_to=2)
    for wrong in (0, 2.0):
        with pytest.raises(oto_jax.UnprunableModelError, match="round_to"):
            make_plan(params, zigs, round_to=wrong)
    for bad in (np.nan, np.inf):
        broken = jax.tree.map(np.copy, params)
        broken["b"]["kernel"][0, 0] = bad
        with pytest.raises(oto_jax.NonFiniteParametersError, match="b/kernel"):
            make_plan(broken, zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="a/bias"):
        make_plan({**params, "a": {"kernel": params["a"]["kernel"]}}, zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="a/kernel.*abstract|a/bias.*abstract"):
        make_plan(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params)), zigs)
    with pytest.raises(oto_jax.ZIGMismatchError, match="no space 'z'"):
        make_plan(params, zigs).units("z")
    buffers = {"params": params, "stats": {"mean": np.ones(6)}}
    member = [plain(("params", "a", "bias"), 0, 6)]
    dependent = [plain(("stats", "mean"), 0, 6)]
    partial = zigs_of(buffers, [("a", 6, member, dependent)], prefix=("params",))
    make_plan(buffers, partial)
    with pytest.raises(oto_jax.ZIGMismatchError, match="stats/mean"):
        make_plan({"params": params}, partial)
    with pytest.raises(oto_jax.ZIGMismatchError, match="covers 6 positions"):
        make_plan({**buffers, "stats": {"mean": np.ones(5)}}, partial)
