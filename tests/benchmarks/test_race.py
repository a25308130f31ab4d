"""Calls take turns, and their ratios are those of the medians."""

import time
from functools import partial

import pytest

from benchmarks.race import LEAST_ROUNDS, compared, race


def test_calls_take_turns_after_one_untimed_round():
    order = []
    found = race({name: partial(order.append, name) for name in "ab"}, rounds=4)
    assert order == ["a", "b"] * 5
    assert {name: len(times) for name, times in found.items()} == {"a": 4, "b": 4}


def test_each_may_be_called_several_times_before_the_next():
    order = []
    found = race({name: partial(order.append, name) for name in "ab"}, rounds=2, per_round=2)
    assert order == ["a", "a", "b", "b"] * 3
    assert len(found["a"]) == 4


def test_a_race_out_of_time_still_has_its_least_rounds():
    found = race({"slow": lambda: time.sleep(0.01)}, rounds=100, seconds=0.0)
    assert len(found["slow"]) == LEAST_ROUNDS


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds():
    row = compared([2.0, 4.0, 60.0], [1.0, 2.0, 3.0])
    assert row["ratio"] == 2.0
    assert row["median_ms"] == 4000.0
    assert row["ratio_quartiles"] == pytest.approx([2.0, 11.0])
