"""One device, eight, sharded, two processes: the same training, and no new communication."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

OPTIMIZERS = ("faithful", "target", "adamw")
ONE_PROCESS = ("pmap", "shard_map", "replicated", "across", "along", "explicit")
DATA_PARALLEL = ("pmap", "shard_map", "replicated", "explicit")


def start(directory: pathlib.Path, devices: int, *arguments: object) -> subprocess.Popen[str]:
    root = pathlib.Path(__file__).resolve().parents[2]
    flags = (
        f"--xla_force_host_platform_device_count={devices}"
        " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "tests.optim.distributed_run", str(directory), *map(str, arguments)],
        cwd=root,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(outputs)


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    directory = tmp_path_factory.mktemp("eight_devices")
    finish(start(directory, 8))
    return directory


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finish(start(directory, 4, 0, 2, port), start(directory, 4, 1, 2, port))
    return directory


def assert_same_training(one, other):
    alive = 0
    for path in one:
        np.testing.assert_allclose(one[path], other[path], rtol=0, atol=1e-10)
        np.testing.assert_array_equal(one[path] == 0, other[path] == 0)
        alive += int(np.count_nonzero(one[path]))
    total = sum(x.size for x in one.values())
    assert 0.2 * total < alive < 0.9 * total  # Groups died, not all.


def load(directory, way, name):
    return dict(np.load(directory / f"{way}-{name}.npz"))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ONE_PROCESS)
def test_eight_devices_equal_one(eight_devices, way, name):
    assert_same_training(load(eight_devices, "single", name), load(eight_devices, way, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ["replicated", "across"])
def test_two_processes_equal_one_device(eight_devices, two_processes, way, name):
    assert_same_training(load(eight_devices, "single", name), load(two_processes, way, name))


@pytest.mark.parametrize("name", ["faithful", "target", "adamw"])
@pytest.mark.parametrize("way", DATA_PARALLEL)
def test_data_parallel_step_has_exactly_the_collectives_of_sgd(eight_devices, way, name):
    found = json.loads((eight_devices / "collectives.json").read_text())
    assert found["sgd"][way], "plain SGD should communicate its gradients"
    assert found[name][way] == found["sgd"][way]
