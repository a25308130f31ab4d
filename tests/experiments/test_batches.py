"""Batches: every example once an epoch, the same at the same step, on any number of hosts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.batches import evaluation_batches, training_batches
from experiments.errors import OptionError


def take(count, *arguments):
    return list(itertools.islice(training_batches(*arguments), count))


@st.composite
def streams(draw):
    hosts = draw(st.sampled_from([1, 2, 4]))
    batch_size = hosts * draw(st.integers(1, 6))
    size = draw(st.integers(batch_size, 5 * batch_size))
    return {"x": np.arange(size)}, batch_size, draw(st.integers(0, 99)), hosts


@given(streams())
def test_an_epoch_holds_no_example_twice_and_epochs_differ(stream):
    arrays, batch_size, seed, _ = stream
    per_epoch = len(arrays["x"]) // batch_size
    batches = take(2 * per_epoch, arrays, batch_size, seed, 0)
    first, second = (
        np.concatenate([batch["x"] for batch in batches[start:][:per_epoch]])
        for start in (0, per_epoch)
    )
    assert len(set(first)) == len(first) == per_epoch * batch_size
    assert len(set(second)) == len(second)
    if len(first) > 8:
        assert (first != second).any()


@given(streams(), st.integers(0, 12))
def test_a_stream_goes_on_from_any_step(stream, start):
    arrays, batch_size, seed, _ = stream
    whole = take(start + 3, arrays, batch_size, seed, 0)
    resumed = take(3, arrays, batch_size, seed, start)
    for batch, expected in zip(resumed, whole[start:], strict=True):
        assert all((batch[name] == expected[name]).all() for name in expected)


@given(streams())
def test_the_parts_of_all_hosts_are_the_batch_of_one(stream):
    arrays, batch_size, seed, hosts = stream
    whole = take(4, arrays, batch_size, seed, 0)
    parts = [take(4, arrays, batch_size, seed, 0, host, hosts) for host in range(hosts)]
    for step, batch in enumerate(whole):
        for name in ("x", "position"):
            joined = np.concatenate([part[step][name] for part in parts])
            assert (joined == batch[name]).all()


@given(streams(), st.integers(1, 40))
def test_an_evaluation_sees_every_example_exactly_once(stream, size):
    _, batch_size, _, hosts = stream
    arrays = {"x": np.arange(size) + 1}
    parts = [list(evaluation_batches(arrays, batch_size, host, hosts)) for host in range(hosts)]
    assert len({len(part) for part in parts}) == 1  # or hosts would wait for each other for ever
    seen = [
        value
        for batch in itertools.chain(*parts)
        for value, counts in zip(batch["x"], batch["mask"], strict=True)
        if counts
    ]
    assert sorted(seen) == list(range(1, size + 1))
    assert {len(batch["x"]) for batch in itertools.chain(*parts)} == {batch_size // hosts}


def test_too_few_examples_for_a_batch_are_refused():
    with pytest.raises(OptionError, match="10 training examples"):
        next(training_batches({"x": np.arange(10)}, 11, 0, 0))
