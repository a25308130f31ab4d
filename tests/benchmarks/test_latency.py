"""The latency benchmark, from one end to the other, on a network small enough for tests."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax
from benchmarks import latency
from benchmarks.latency import (
    Config,
    Network,
    a_few_less,
    all_but,
    compiled,
    odd,
    program,
    share_of,
)
from benchmarks.subjects import SUBJECTS, Subject
from benchmarks.vgg_layers import layers_alone
from benchmarks.zeroing import with_zeros
from docs import tables
from oto_jax.models.vgg import VGG16_BN


def small(kept):
    return VGG16_BN(widths=((kept(16),), (kept(24), kept(24))), hidden=(kept(16),))


SMALL = small(lambda size: size)


@pytest.mark.parametrize("kept", [share_of(0.5), share_of(0.25), odd])
def test_exactly_the_asked_number_of_units_stays_in_each_space(kept):
    image = jnp.ones((1, 32, 32, 3))
    variables = dict(jax.jit(SMALL.init)(jax.random.key(0), image))
    zigs = oto_jax.find_zigs(SMALL, variables, image)
    plan = oto_jax.make_plan(with_zeros(variables, zigs, all_but(zigs, kept, seed=0)), zigs)
    assert [s.units.count for s in plan.spaces] == [kept(s.units.size) for s in plan.spaces]


def test_widths_are_odd_or_a_little_smaller_as_asked():
    sizes = (12, 24, 63, 64, 512, 3072)
    assert all(odd(size) % 2 == 1 and 0 < odd(size) < size for size in sizes)
    assert [a_few_less(size) for size in sizes] == [12, 24, 63, 56, 504, 3064]


def test_the_layers_alone_are_all_that_multiplies():
    image = jnp.ones((1, 32, 32, 3))
    variables = dict(jax.jit(SMALL.init)(jax.random.key(0), image))
    alone = oto_jax.count_macs(lambda params: layers_alone(params, 1)(), variables["params"])
    assert alone == oto_jax.count_macs(SMALL.apply, variables, image)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_network_defined_at_half_the_widths_has_half_of_the_units_in_each_space(name):
    subject = SUBJECTS[name]
    example = jax.ShapeDtypeStruct((1, *subject.shape), subject.dtype)

    def spaces(model):
        shapes = jax.eval_shape(model.init, jax.random.key(0), example)
        return {
            space.name: space.size for space in oto_jax.find_zigs(model, shapes, example).spaces
        }

    full, half = spaces(subject.model), spaces(subject.define(share_of(0.5)))
    assert half == {space: size // 2 for space, size in full.items()}


def of_ones(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    return Network(model, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes))


@pytest.mark.parametrize("share, same", [(0.5, True), (0.75, False)])
def test_a_network_defined_at_other_widths_is_told_apart(share, same):
    subject = Subject(small, (32, 32, 3), np.float32, "32 x 32 pixels")
    shares = {"dense": 1.0, "pruned to 0.5": 0.5, "defined": share}
    found = {name: of_ones(small(share_of(kept))) for name, kept in shares.items()}
    measured = latency.measure(subject, 1, found, Config(rounds=3, seconds=0.0))
    assert measured["same_program_as_defined"] is same


def test_a_program_is_the_same_wherever_it_was_compiled():
    network = of_ones(SMALL)
    here = compiled(network, jnp.ones((1, 32, 32, 3)))
    there = compiled(network, jnp.ones((1, 32, 32, 3)))
    assert here.as_text() != there.as_text()
    assert program(here) == program(there)
    assert "vgg.py" not in program(here)
    assert "convolution" in program(here)


def test_the_benchmark_measures_and_its_table_shows(monkeypatch, capsys):
    subject = Subject(small, (32, 32, 3), np.float32, "32 x 32 pixels")
    monkeypatch.setitem(latency.SUBJECTS, "VGG16-BN", subject)
    config = Config(batches=(1, 2), rounds=3, seconds=0.0)
    found = latency.subject_figures("VGG16-BN", config)
    sizes = found["networks"]
    assert sizes["pruned to 0.5"]["macs_ratio"] < sizes["pruned to 0.75"]["macs_ratio"] < 1
    assert sizes["odd"]["macs"] < sizes["odd, round_to 8"]["macs"] <= sizes["dense"]["macs"]
    assert sizes["defined"] == sizes["pruned to 0.5"]
    for batch in found["batches"].values():
        assert batch["same_program_as_defined"]
        assert batch["slim_over_defined"]["rounds"] == 3
        rows = batch["rows"]
        assert rows["dense"]["ratio"] == rows["dense"]["time_over_macs"] == 1
        assert rows["8 units fewer"]["fair_time_over_macs"] == 1
    results = {"models": {"VGG16-BN": found}, "command": "python x", "versions": {"jax": "0"}}
    results["hardware"] = {"processor": "p", "cores": 2, "devices": "1 x cpu"}
    page = tables.latency(results)
    assert page.count("\n| ") == len(sizes)
    assert all(name in page and name in capsys.readouterr().out + page for name in sizes)


PLAIN = "pruned to 0.5: time over MACs"
FAIRER, DEFINED = f"{PLAIN}, fair", "time pruned over time defined"


@pytest.mark.parametrize(
    "quotient, fair, beside_defined, over, fails",
    [
        (1.2, 1.2, 1.0, [], False),
        (1.2, 1.2, 1.2, [DEFINED], False),
        (1.2, 1.3, 1.0, [FAIRER], False),
        (1.2, 1.3, 1.2, [FAIRER, DEFINED], True),
        (1.3, 1.2, 1.0, [PLAIN], True),
    ],
)
def test_a_quotient_over_its_bound_is_named_and_fails_unless_it_is_explained(
    monkeypatch, tmp_path, capsys, quotient, fair, beside_defined, over, fails
):
    """Beside dense nothing explains it; beside a fairer network, one defined that is as slow."""
    slim = {"time_over_macs": quotient, "fair_time_over_macs": fair}
    rows = {"dense": {"time_over_macs": 1.0, "fair_time_over_macs": 9.0}, "pruned to 0.5": slim}
    batch = {"rows": rows, "slim_over_defined": {"ratio": beside_defined}}
    found = {"batches": {"64": batch}}
    monkeypatch.setattr(latency, "subject_figures", lambda name, config: found)
    config = Config(models=("VGG16-BN",), results=tmp_path / "latency.json")
    if fails:
        with pytest.raises(SystemExit) as left:
            latency.main(config)
        assert all(what in str(left.value) for what in over)
    else:
        latency.main(config)
    assert json.loads(config.results.read_text())["over"] == over
    said = capsys.readouterr().out
    assert all(f"{what}: " in said for what in over)
    assert said.count(", over\n") == len(over)


def test_what_was_not_measured_is_not_judged(monkeypatch, tmp_path):
    monkeypatch.setattr(latency, "subject_figures", lambda name, config: {"batches": {}})
    config = Config(models=("VGG16-BN", "ResNet-50"), results=tmp_path / "latency.json")
    latency.main(config)
    assert json.loads(config.results.read_text())["bounds"] == {}
