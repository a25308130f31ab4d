"""The latency benchmark, from one end to the other, on a network small enough for tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oto_jax
from benchmarks import latency
from benchmarks.latency import Config, Subject, a_few_less, all_but, odd, share_of
from benchmarks.vgg_layers import layers_alone
from benchmarks.zeroing import with_zeros
from docs import tables
from oto_jax.models.vgg import VGG16_BN

SMALL = VGG16_BN(widths=((16,), (24, 24)), hidden=(16,))


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


def test_the_benchmark_measures_and_its_table_shows(monkeypatch, capsys):
    subject = Subject(SMALL, (32, 32, 3), np.float32, "32 x 32 pixels")
    monkeypatch.setitem(latency.SUBJECTS, "VGG16-BN", subject)
    config = Config(batches=(1, 2), rounds=3, seconds=0.0)
    found = latency.subject_figures("VGG16-BN", config)
    sizes = found["networks"]
    assert sizes["pruned to 0.5"]["macs_ratio"] < sizes["pruned to 0.75"]["macs_ratio"] < 1
    assert sizes["odd"]["macs"] < sizes["odd, round_to 8"]["macs"] <= sizes["dense"]["macs"]
    for batch in found["batches"].values():
        assert batch["same_program_as_defined"]
        rows = batch["rows"]
        assert rows["dense"]["ratio"] == rows["dense"]["time_over_macs"] == 1
        assert rows["8 units fewer"]["fair_time_over_macs"] == 1
    results = {"models": {"VGG16-BN": found}, "command": "python x", "versions": {"jax": "0"}}
    results["hardware"] = {"processor": "p", "cores": 2, "devices": "1 x cpu"}
    page = tables.latency(results)
    assert page.count("\n| ") == len(sizes)
    assert all(name in page and name in capsys.readouterr().out + page for name in sizes)


@pytest.mark.parametrize("quotient, over", [(1.2, False), (1.3, True)])
def test_a_network_over_the_bound_ends_in_an_error(monkeypatch, tmp_path, quotient, over):
    row = {"time_over_macs": quotient, "fair_time_over_macs": 1.0}
    found = {"batches": {"64": {"rows": {"dense": row, "pruned to 0.5": row}}}}
    monkeypatch.setattr(latency, "subject_figures", lambda name, config: found)
    config = Config(models=("VGG16-BN",), results=tmp_path / "latency.json")
    if over:
        with pytest.raises(SystemExit, match="pruned to 0.5"):
            latency.main(config)
    else:
        latency.main(config)
    assert config.results.exists()


def test_what_was_not_measured_is_not_judged():
    assert latency.quotients({"ResNet-50": {"batches": {}}}) == {}
