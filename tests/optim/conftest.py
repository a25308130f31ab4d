"""Small arrays that are treated as large ones are."""

import pytest

from oto_jax.optim import norms, parts

SIZES = [
    (norms, "LEAST_ENTRIES_IN_SLABS"),
    (parts, "LEAST_ENTRIES"),
    (parts, "LEAST_ENTRIES_TO_WAIT"),
]


@pytest.fixture(scope="module")
def small_as_large():
    """Sums in slabs, and one part after the other, whatever the size of the arrays."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in SIZES:
            patch.setattr(module, name, 1)
        yield


@pytest.fixture(scope="module", params=["as it is", "as if large"])
def every_size(request):
    """Once as it is, once with ``small_as_large``."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in SIZES if request.param == "as if large" else []:
            patch.setattr(module, name, 1)
        yield
