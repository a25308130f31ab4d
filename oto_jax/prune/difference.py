"""How far two pytrees of outputs are apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import OutputMismatchError
from oto_jax.zigs.partition import format_path, leaves_by_path

MASKS = 1e8
"""From here on a number among outputs is taken to say that nothing is there."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Worst absolute difference, and the same relative to the largest magnitude of an output."""

    absolute: float
    relative: float


def worst_difference(
    expected: Any, found: Any, *, equal_nan: bool = False, equal_counts: float = 1.0
) -> Difference:
    """The worst difference over all leaves, in float64.

    For each leaf ``absolute = max|a - b|`` and ``relative = absolute / max|a|``. Equal infinities
    do not differ; NaN differs from everything (from NaN only unless ``equal_nan``); a difference
    from nothing but zeros is infinitely large in relation. Entries that are equal count for
    ``max|a|`` by the factor ``equal_counts`` only; if that is below 1, numbers as large as those
    that mask something count not at all.

    Raises:
      OutputMismatchError: if the trees or the shapes are not the same.

    Example:
      >>> worst_difference({"y": np.array([1.0, -4.0])}, {"y": np.array([1.0, -3.0])})
      Difference(absolute=1.0, relative=0.25)
    """
    wanted, given = leaves_by_path(expected), leaves_by_path(found)
    if wanted.keys() != given.keys():
        odd = sorted(wanted.keys() ^ given.keys())[0]
        raise OutputMismatchError(
            f"only one of the two models has an output {format_path(odd)!r}; compare the same call"
            " of both"
        )
    pairs = [
        _leaf_difference(path, wanted[path], given[path], equal_nan, equal_counts)
        for path in wanted
    ]
    return Difference(
        max((pair.absolute for pair in pairs), default=0.0),
        max((pair.relative for pair in pairs), default=0.0),
    )


def _leaf_difference(
    path: tuple[str, ...], expected: Any, found: Any, equal_nan: bool, equal_counts: float
) -> Difference:
    if np.shape(expected) != np.shape(found):
        raise OutputMismatchError(
            f"output {format_path(path)!r} has shape {np.shape(expected)} in one model and"
            f" {np.shape(found)} in the other"
        )
    a, b = _wide(expected), _wide(found)
    if not a.size:
        return Difference(0.0, 0.0)
    same = (a == b) | (equal_nan & np.isnan(a) & np.isnan(b))
    gaps = np.abs(np.subtract(a, b, where=~same, out=np.zeros_like(a)))
    absolute = float(np.where(np.isnan(gaps), np.inf, gaps).max())
    sizes = np.where(np.isfinite(a), np.abs(a), 0.0)
    if equal_counts < 1:
        sizes *= np.where(same, np.where(sizes < MASKS, equal_counts, 0.0), 1.0)
    scale = float(sizes.max(initial=0.0))
    return Difference(absolute, absolute / scale if scale else (np.inf if absolute else 0.0))


def _wide(leaf: Any) -> np.ndarray:
    """The leaf's values in float64, or complex128; a typed random key as its bits."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    values = np.asarray(leaf)
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)
