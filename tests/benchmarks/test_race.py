"""Calls take turns in an order drawn anew, and their ratios are those of the medians."""

import time
from functools import partial

import pytest

from benchmarks.race import LEAST_ROUNDS, compared, race


def test_calls_take_turns_after_one_untimed_round():
    order = []
    found = race({name: partial(order.append, name) for name in "ab"}, rounds=4)
    turns = [order[k : k + 2] for k in range(0, len(order), 2)]
    assert [sorted(turn) for turn in turns] == [["a", "b"]] * 5
    assert {name: len(times) for name, times in found.items()} == {"a": 4, "b": 4}


def test_each_may_be_called_several_times_before_the_next():
    order = []
    found = race({name: partial(order.append, name) for name in "ab"}, rounds=2, per_round=2)
    turns = [order[k : k + 4] for k in range(0, len(order), 4)]
    assert all(turn in (list("aabb"), list("bbaa")) for turn in turns)
    assert len(found["a"]) == 4


def test_the_order_changes_from_round_to_round_and_comes_again_with_its_seed():
    def turns(seed):
        order = []
        race({name: partial(order.append, name) for name in "abc"}, rounds=30, seed=seed)
        return ["".join(order[k : k + 3]) for k in range(3, len(order), 3)]

    assert turns(0) == turns(0) != turns(1)
    assert len(set(turns(0))) == 6


def test_a_race_out_of_time_still_has_its_least_rounds():
    found = race({"slow": lambda: time.sleep(0.01)}, rounds=100, seconds=0.0)
    assert len(found["slow"]) == LEAST_ROUNDS


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds():
    row = compared([2.0, 4.0, 60.0], [1.0, 2.0, 3.0])
    assert row["ratio"] == 2.0
    assert row["median_ms"] == 4000.0
    assert row["ratio_quartiles"] == pytest.approx([2.0, 11.0])
