"""Data parallelism: however many devices, hosts and spellings, one training trajectory."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.errors import BatchSizeError, OptionError
from experiments.training import parallel as par
from experiments.training.metrics import read_metrics
from experiments.training.state import TrainState, create_state, many_steps, train_step

HERE = Path(__file__).parent
# Eight devices add up gradients and batch statistics in another order than one: over 15 steps in
# float32 the metrics were seen to differ by a part in ten million, and may by a hundred times that.
TOLERANCE = 1e-5


def run(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return output


def assert_close(rows, expected):
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row.keys() == wanted.keys()
        assert list(row.values()) == pytest.approx(
            list(wanted.values()), rel=TOLERANCE, abs=TOLERANCE
        )


def test_eight_devices_train_as_one_under_pmap_and_on_a_mesh():
    curves = json.loads(result(run(HERE / "device_counts.py")).splitlines()[-1])
    one = curves.pop("one device")
    assert one[0]["loss"] > one[-2]["loss"]
    assert one[-2]["sparsity"] > 0
    for rows in curves.values():
        assert_close(rows, one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_two_processes_train_as_one(tmp_path, kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--epochs", 1, "--start-epoch", 0, "--log-every", 5, "--parallel", kind]
    alone = run(HERE / "digits_run.py", *options, "--workdir", tmp_path / "alone")
    hosts = [
        run(
            HERE / "digits_run.py",
            *options,
            *("--workdir", tmp_path / "together", "--coordinator", f"127.0.0.1:{port}"),
            *("--processes", 2, "--process", number),
        )
        for number in range(2)
    ]
    for process in (alone, *hosts):
        result(process)
    assert_close(read_metrics(tmp_path / "together"), read_metrics(tmp_path / "alone"))


def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do():
    eight = dataclasses.replace(par.data_parallel("pmap"), mesh=FakeMesh(8))
    with pytest.raises(BatchSizeError, match="96 and 112"):
        par.check_batch_size(eight, 100, accumulate=2)
    assert par.check_batch_size(eight, 96, accumulate=2) == 96


@dataclasses.dataclass(frozen=True)
class FakeMesh:
    """More devices than this machine has, for what only counts them."""

    size: int

    @property
    def local_devices(self):
        return [None] * self.size


def test_a_coordinator_needs_the_numbers():
    with pytest.raises(OptionError, match="--processes and --process"):
        par.connect("127.0.0.1:1234", None, 0)


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_what_is_replicated_comes_back(kind):
    parallel = par.data_parallel(kind)
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.float32(2)}
    back = par.unreplicate(parallel, par.replicate(parallel, tree))
    assert jax.tree.all(jax.tree.map(lambda x, y: (np.asarray(x) == y).all(), back, tree))


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_rows_come_back_in_order(kind):
    parallel = par.data_parallel(kind)
    double = par.compile_outputs(parallel, lambda factor, batch: factor * batch)
    batch = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    factor = par.replicate(parallel, np.float32(2))
    rows = par.local_rows(parallel, double(factor, par.shard_batch(parallel, batch)))
    np.testing.assert_array_equal(rows, 2 * batch)


class Linear:
    """A model without any structure: one weight vector."""


def squared_error(model, variables, batch, key):
    del model, key
    value = jnp.mean((batch["x"] @ variables["params"] - batch["y"]) ** 2)
    return value, ({}, {"twice": 2 * value})


def one_step(accumulate, batch):
    parallel = par.data_parallel("pmap")
    tx = optax.sgd(0.1)
    state = create_state({"params": np.ones(3, np.float32)}, tx)
    step = train_step(Linear(), squared_error, tx, 0, accumulate)
    steps = par.compile_steps(parallel, many_steps(step))
    stacked = jax.tree.map(lambda leaf: leaf[None], batch)
    state, metrics = steps(par.replicate(parallel, state), par.shard_steps(parallel, stacked))
    return par.unreplicate(parallel, state), metrics


def test_accumulated_gradients_are_those_of_the_whole_batch():
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(8, 3)), "y": rng.normal(size=8)}
    batch = jax.tree.map(np.float32, batch)
    whole, whole_metrics = one_step(1, batch)
    parts, parts_metrics = one_step(4, batch)
    assert isinstance(whole, TrainState)
    assert (whole.step, parts.step) == (1, 1)
    np.testing.assert_allclose(parts.params, whole.params, rtol=1e-6)
    assert not np.allclose(whole.params, 1)
    np.testing.assert_allclose(parts_metrics["loss"], whole_metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(parts_metrics["twice"], 2 * parts_metrics["loss"], rtol=1e-6)
