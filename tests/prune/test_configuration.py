"""Integers of a configuration are found, marked and replaced wherever they lie."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import hypothesis.strategies as st
import numpy as np
from flax.core import FrozenDict
from hypothesis import given

from oto_jax.prune.configuration import (
    MarkedInt,
    int_leaves,
    mark,
    marked_leaves,
    part,
    replaced,
)


class Pair(NamedTuple):
    first: int
    second: int


@dataclasses.dataclass(frozen=True)
class Frozen:
    width: int
    inner: object = None


class Plain:
    """A configuration as other libraries write them: an object with attributes."""

    def __init__(self, hidden_size, names):
        self.hidden_size = hidden_size
        self.names = names

    def __eq__(self, other):
        return isinstance(other, Plain) and vars(self) == vars(other)

    def __hash__(self):
        return hash(self.hidden_size)


numbers = st.one_of(st.integers(), st.floats(allow_nan=False))
leaves = st.one_of(numbers, st.booleans(), st.none(), st.text(max_size=3))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text("ab", min_size=1), inner, max_size=3),
        st.dictionaries(st.text("ab", min_size=1), inner, max_size=3).map(FrozenDict),
        st.builds(Frozen, st.integers(), inner),
        st.builds(Plain, st.integers(), inner),
        st.builds(Pair, st.integers(), st.integers()),
    ),
    max_leaves=8,
)


@given(values)
def test_marking_changes_nothing_but_the_type_of_integers(value):
    marked = mark(value)
    assert marked == value
    assert type(marked) is MarkedInt or type(marked) is type(value)
    for path, number in int_leaves(marked):
        assert isinstance(number, MarkedInt)
        assert number.leaf == path
        assert part(value, path) == number
    assert [path for path, _ in int_leaves(value)] == [path for path, _ in int_leaves(marked)]


@given(values, st.data())
def test_replacing_sets_the_leaf_and_leaves_the_rest(value, data):
    before = dict(int_leaves(value))
    if not before:
        return
    chosen = data.draw(st.sampled_from(sorted(before)))
    after = dict(int_leaves(replaced(value, {chosen: before[chosen] + 1})))
    assert after == {**before, chosen: before[chosen] + 1}
    assert dict(int_leaves(value)) == before


def test_arithmetic_loses_the_mark():
    marked = mark(Frozen(8)).width
    assert isinstance(marked, MarkedInt)
    for number in (marked * 2, marked + 0, marked // 1, -marked):
        assert not isinstance(number, MarkedInt)
    assert marked_leaves((marked, marked * 2), (3, 4)) == {("width",): 3}


def test_modules_are_cloned_and_arrays_left_alone():
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3, name="last")])
    assert ("layers", "0", "features") in dict(int_leaves(model))
    thin = replaced(model, {("layers", "0", "features"): 5})
    assert [thin.layers[0].features, thin.layers[2].features] == [5, 3]
    assert thin.layers[2].name == "last"
    assert list(int_leaves({"a": np.ones(3), "b": np.int32(4), "c": int, "d": "5"})) == []


def test_objects_that_refer_to_each_other_end():
    loop = Plain(3, None)
    loop.names = loop
    assert len(list(int_leaves(loop))) < 20
    assert mark(loop).hidden_size == 3
