"""The fractional factorial that a recipe's settings are screened by."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.screening import BASE, FACTORS, Config, Run, collect, design, effects, runs
from experiments.results import write_whole

points = st.floats(-5, 5, allow_subnormal=False)


def test_no_effect_is_mixed_with_another_or_with_a_pair() -> None:
    signs = 2 * np.array(design()) - 1
    assert signs.shape == (16, len(FACTORS))
    assert (signs.T @ signs == 16 * np.eye(len(FACTORS))).all()
    for first, second in itertools.combinations(range(len(FACTORS)), 2):
        assert not (signs.T @ (signs[:, first] * signs[:, second])).any()


@given(points, st.lists(points, min_size=6, max_size=6), points)
def test_effects_of_a_sum_are_its_terms_whatever_pairs_add(
    mean: float, true: list[float], pair: float
) -> None:
    scores = [
        mean + sum(x * on for x, on in zip(true, row, strict=True)) + pair * (row[0] ^ row[1])
        for row in design()
    ]
    found, error = effects(design(), scores)
    np.testing.assert_allclose(found, true, atol=1e-12)
    # The pair's contrast, of size |pair|, is all that is left for the 9 degrees of freedom.
    np.testing.assert_allclose(error, abs(pair) / 3, atol=1e-12)


def test_the_standard_error_is_that_of_a_difference_of_means() -> None:
    rng = np.random.default_rng(0)
    found = [effects(design(), rng.normal(size=16).tolist()) for _ in range(4000)]
    spread = np.std([effect for sizes, _ in found for effect in sizes])
    estimated = np.sqrt(np.mean([error**2 for _, error in found]))
    assert spread == pytest.approx(np.sqrt(4 / 16), rel=0.03)
    assert estimated == pytest.approx(spread, rel=0.03)


def test_runs_have_names_and_seeds_of_their_own_and_say_their_settings() -> None:
    names = [run.name for run in runs()]
    assert len(set(names)) == len(names)
    assert len({run.seed for run in runs()[:16]}) == 16
    first, last = runs()[0], runs()[15]
    assert (first.changes, first.settings["weight_decay"]) == ("", 1e-4)
    assert f"--learning-rate {first.settings['learning_rate']}" in BASE
    assert (last.settings["weight_decay"], last.settings["base"]) == (5e-4, "nesterov")


def pretended(run: Run, top1: float) -> dict[str, object]:
    recipe = {**run.settings, "lmbda_drops": [run.settings["lmbda_drops"]]}
    kept = {"kept": 0.5}
    return {
        "config": {"recipe": recipe},
        "slim_test": {"top1": top1},
        **dict.fromkeys(("macs", "parameters"), kept),
        **dict.fromkeys(("commit", "command", "hardware", "versions"), "that of the run"),
        "training_minutes": 1.0,
        "seed": run.seed,
    }


def test_result_files_are_collected_and_those_of_other_runs_refused(tmp_path: Path) -> None:
    config = Config(folder=tmp_path)
    for run in runs():
        better = 0.5 if run.settings["weight_decay"] == 5e-4 else 0.0
        write_whole(run.file(config), json.dumps(pretended(run, 90 + better)))
    found = collect(config)
    for name, effect in found["effects"].items():
        assert effect == pytest.approx(0.5 if "weight decay" in name else 0.0)
    assert found["standard_error"] == pytest.approx(0)
    assert [len(scores) for scores in found["others"].values()] == [1, 1, 1, 3, 3]
    first = runs()[0]
    changed = pretended(first, 90.0) | {"seed": 99}
    write_whole(first.file(config), json.dumps(changed))
    with pytest.raises(SystemExit, match="seed 99, not 10"):
        collect(config)
    first.file(config).unlink()
    with pytest.raises(SystemExit, match="is missing"):
        collect(config)
