"""A run that is killed, stopped or cut short goes on to exactly where it would have arrived."""

import json
import random
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.training.metrics import read_metrics
from tests.experiments.processes import kill, launch, outcome, wait_for_step

OPTIONS = ("--log-every", 1, "--checkpoint-every", 4, "--dropout", 0.1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("uninterrupted")
    outcome(launch(*OPTIONS, "--workdir", folder, cache=cache))
    assert read_metrics(folder)[-2]["sparsity"] > 0
    return folder


def assert_same(folder, expected):
    """Bit by bit: every metric of every step, the final parameters, and so the zero groups."""
    assert (folder / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    found, wanted = np.load(folder / "params.npz"), np.load(expected / "params.npz")
    assert found.files == wanted.files
    for name in found.files:
        assert found[name].tobytes() == wanted[name].tobytes()


def killed_and_resumed(folder, cache, step):
    run = launch(*OPTIONS, "--workdir", folder, cache=cache)
    wait_for_step(run, folder, step)
    kill(run)
    outcome(launch(*OPTIONS, "--workdir", folder, cache=cache))


def test_a_killed_run_arrives_bitwise_where_it_would_have(tmp_path, cache, uninterrupted):
    killed_and_resumed(tmp_path, cache, random.Random(0).randrange(5, 28))
    assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_five_of_five_killed_runs_arrive(tmp_path, cache, uninterrupted, attempt):
    killed_and_resumed(tmp_path, cache, random.Random(attempt).randrange(1, 30))
    assert_same(tmp_path, uninterrupted)


SCRIPT = (
    *("--smoke", "--train-images", 128, "--test-images", 100),
    *("--log-every", 1, "--checkpoint-every", 3),
)


@pytest.fixture(scope="module")
def script(root):
    return root / "experiments" / "vgg16_bn_cifar10.py"


@pytest.fixture(scope="module")
def uninterrupted_script(tmp_path_factory, shared_data, cache, script):
    folder = tmp_path_factory.mktemp("uninterrupted_script")
    outcome(launch(*SCRIPT, "--workdir", folder, cache=cache, script=script))
    assert read_metrics(folder)[-2]["sparsity"] == pytest.approx(0.5, abs=0.01)
    return folder


def final_state(folder):
    """Parameters, batch statistics and optimizer state of the last checkpoint, by path."""
    last = max((folder / "checkpoints").iterdir()) / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(last)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_five_of_five_killed_scripts_arrive(tmp_path, cache, script, uninterrupted_script, attempt):
    """The same of a script as users run it: metrics, final state, and the pruned network."""
    options = (*SCRIPT, "--workdir", tmp_path)
    run = launch(*options, cache=cache, script=script)
    wait_for_step(run, tmp_path, random.Random(attempt).randrange(1, 12))
    kill(run)
    assert not (tmp_path / "result.json").exists()
    outcome(launch(*options, cache=cache, script=script))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        uninterrupted_script / "metrics.jsonl"
    ).read_bytes()
    found, wanted = final_state(tmp_path), final_state(uninterrupted_script)
    assert found.keys() == wanted.keys()
    assert all(found[path].tobytes() == wanted[path].tobytes() for path in wanted)
    results, expected = (
        json.loads((folder / "result.json").read_text())
        for folder in (tmp_path, uninterrupted_script)
    )
    for name in ("test", "slim_test", "parameters", "macs", "groups", "steps"):
        assert results[name] == expected[name]


def test_sigterm_saves_and_leaves_cleanly(tmp_path, cache, uninterrupted):
    run = launch(*OPTIONS, "--workdir", tmp_path, cache=cache)
    wait_for_step(run, tmp_path, 2)
    run.send_signal(signal.SIGTERM)
    left = json.loads(outcome(run).splitlines()[-1])
    assert left["stopped"] == "SIGTERM"
    assert (tmp_path / "checkpoints" / f"{left['step']:08d}").is_dir()
    outcome(launch(*OPTIONS, "--workdir", tmp_path, cache=cache))
    assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
def test_max_minutes_saves_and_leaves_cleanly(tmp_path, cache, uninterrupted):
    run = launch(*OPTIONS, "--workdir", tmp_path, "--max-minutes", 0, cache=cache)
    assert json.loads(outcome(run).splitlines()[-1]) == {"step": 1, "stopped": "--max-minutes"}
    outcome(launch(*OPTIONS, "--workdir", tmp_path, cache=cache))
    assert_same(tmp_path, uninterrupted)


def test_a_finished_run_stays_as_it_is(tmp_path, cache, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    run = launch(*OPTIONS, "--workdir", uninterrupted, cache=cache)
    assert json.loads(outcome(run).splitlines()[-1]) == {"step": 30, "stopped": None}
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused_by_name(cache, uninterrupted):
    run = launch(*OPTIONS, "--lmbda", 0.5, "--workdir", uninterrupted, cache=cache)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "CheckpointMismatchError" in errors
    assert "lmbda: 0.02 -> 0.5" in errors


def test_a_run_that_diverges_says_so_and_saves_nothing_of_it(cache, tmp_path):
    run = launch(*OPTIONS, "--learning-rate", 1e38, "--workdir", tmp_path, cache=cache)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "DivergedError: the loss is" in errors
    assert "Traceback" not in errors
    assert not any((tmp_path / "checkpoints").iterdir())


def test_an_unknown_option_is_refused_by_name(cache):
    run = launch("--lambda", 0.5, cache=cache)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 2
    assert "--lmbda" in errors
