"""The fractional factorial that a recipe's settings are screened by."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.screening import BASE, FACTORS, design, effects, runs

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
