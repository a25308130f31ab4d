"""Settings of every test: strict ranks, full precision, how long Hypothesis searches.

Hypothesis profiles, chosen with the variable HYPOTHESIS_PROFILE:
  quick     the default: few examples, new ones in each run
  ci        the same number, the same examples each time (chosen when CI is set)
  thorough  many examples, for hunting counterexamples
"""

import os
import pathlib

import hypothesis
import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

jax.config.update("jax_numpy_rank_promotion", "raise")
# On a GPU or TPU too, float32 shall mean float32: by default these multiply with fewer digits.
jax.config.update("jax_default_matmul_precision", "highest")

# The first example of a test compiles, so a deadline would only measure the compiler.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "quick")
)


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data that lies beside the repository, or a skip with the reason."""
    folder = pathlib.Path(os.environ.get("OTO_JAX_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set OTO_JAX_DATA to the folder that holds it")
    return folder
