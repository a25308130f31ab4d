"""Cutting dead groups while training leaves predictions as they are, also when it is interrupted.

Without the group lasso, for with it a group's norm also counts its weights on dead inputs, which
are gone from the narrower network: there only the outputs at the cut are the same.
"""

import dataclasses
import gc
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax
from experiments.training import loop
from experiments.training import parallel as par
from experiments.training.metrics import read_metrics
from experiments.training.options import RunOptions, to_json
from experiments.training.run_folder import open_run, read_run
from experiments.training.shrinking import from_the_start
from experiments.training.task import make_network
from tests.experiments import digits_run
from tests.experiments.digits_run import Net
from tests.experiments.processes import launch, outcome

OPTIONS = (
    *("--epochs", 4, "--start-epoch", 0, "--lmbda", 0, "--epsilon", 0),
    *("--target-group-sparsity", 0.5, "--target-epochs", 1),
    *("--log-every", 15, "--checkpoint-every", 20),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("shrunk")
    outcome(launch(*OPTIONS, "--shrink-every", 1, "--workdir", folder, cache=cache))
    return folder


def test_training_on_the_narrower_network_is_the_same_training(tmp_path, cache, shrunk):
    outcome(launch(*OPTIONS, "--workdir", tmp_path, cache=cache))
    rows, expected = read_metrics(shrunk), read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        for name in {"loss", "test/loss"} & wanted.keys():
            assert row[name] == pytest.approx(wanted[name], rel=1e-3)
        assert row.get("sparsity") == wanted.get("sparsity")
    assert rows[-2]["sparsity"] == 0.5


def test_the_network_is_narrower_from_the_cut_on(shrunk):
    pruned = oto_jax.load(shrunk / "cut-00000015", Net())
    assert sum(pruned.model.widths) == 12


def test_a_finished_run_saves_what_loads_into_the_network_of_the_start(shrunk):
    assert sum(oto_jax.load(shrunk / "slim", Net()).model.widths) == 12


def test_a_finished_run_is_compared_with_the_network_of_the_start(shrunk):
    figures = json.loads((shrunk / "results.json").read_text())
    variables = Net().init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    assert figures["parameters"]["full"] == oto_jax.count_parameters(variables)
    slim = oto_jax.load(shrunk / "slim", Net())
    assert figures["parameters"]["slim"] == oto_jax.count_parameters(slim.variables)
    assert 0 < figures["worst_relative_difference"] <= 1e-5
    assert figures["test"]["top1"] == figures["slim_test"]["top1"]


def test_a_second_cut_loads_into_the_network_of_the_start(shrunk, tmp_path):
    name, x = "cut-00000015", jnp.ones((2, 8, 8, 1))
    cut = oto_jax.load(shrunk / name, Net())
    zigs = oto_jax.find_zigs(cut.model, cut.variables, x)
    params = jax.tree.map(
        lambda p, dead: np.where(dead, 0, p), cut.variables["params"], zigs.mask(0)
    )
    last = oto_jax.prune(cut.model, {**cut.variables, "params": params}, zigs)
    with read_run(shrunk) as run:
        oto_jax.save(tmp_path / "slim", from_the_start(run, Net(), [name], last))
    again = oto_jax.load(tmp_path / "slim", Net())
    assert sum(again.model.widths) == sum(cut.model.widths) - 1
    expected = last.model.apply(last.variables, x)
    assert np.array_equal(again.model.apply(again.variables, x), expected)


def test_networks_that_were_cut_are_given_back(tmp_path, monkeypatch):
    """Or a long run's memory grows with every cut, by a compiled training step."""
    made = []

    def remembered(*arguments):
        network = make_network(*arguments)
        made.append(weakref.ref(network.model))
        return network

    monkeypatch.setattr(loop, "make_network", remembered)
    recipe = dataclasses.replace(
        digits_run.Config().recipe,
        epochs=4,
        start_epoch=0,
        target_epochs=3,
        target_group_sparsity=0.7,
    )
    options = RunOptions(workdir=tmp_path, shrink_every=1, evaluate_every=1)
    config = digits_run.Config(recipe=recipe, run=options)
    parallel = par.data_parallel("pmap")
    task = digits_run.make_task(config, parallel)
    with open_run(tmp_path, to_json(config)) as run:
        trained = loop.train(task, options, parallel, run)
    gc.collect()
    alive = [model() for model in made]
    assert len(made) >= 3
    assert alive[0] is task.model
    assert alive[-1] is trained.network.model
    assert not any(alive[1:-1])


@pytest.mark.slow
def test_a_shrunk_run_goes_on_where_it_stopped(tmp_path, cache, shrunk):
    options = (*OPTIONS, "--shrink-every", 1, "--workdir", tmp_path)
    left = json.loads(outcome(launch(*options, "--stop-after", 17, cache=cache)).splitlines()[-1])
    assert left == {"step": 17, "stopped": "--stop-after"}
    outcome(launch(*options, cache=cache))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (shrunk / "metrics.jsonl").read_bytes()
