"""Small arrays that are treated as large ones are."""

import contextlib

import pytest

from oto_jax.optim import norms, parts


@contextlib.contextmanager
def all_sizes_large():
    """Sums in slabs, and one part after the other, whatever the size of the arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "LEAST_ENTRIES_IN_SLABS", 1)
        patch.setattr(parts, "LEAST_ENTRIES", 1)
        patch.setattr(parts, "LEAST_ENTRIES_TO_WAIT", 1)
        yield


@pytest.fixture(scope="module")
def small_as_large():
    """Small arrays are treated as large ones."""
    with all_sizes_large():
        yield


@pytest.fixture(scope="module", params=["as it is", "as if large"])
def every_size(request):
    """Once as it is, once with small arrays treated as large ones."""
    with all_sizes_large() if request.param == "as if large" else contextlib.nullcontext():
        yield
