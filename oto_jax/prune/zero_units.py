"""Which units of each space hold anything but zeros."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from oto_jax.errors import NonFiniteParametersError, ZIGMismatchError
from oto_jax.zigs.partition import Member, Path, ZIGs, check_parameters, format_path


def nonzero_units(params: Any, zigs: ZIGs) -> dict[str, np.ndarray]:
    """For each space by name: which units have a non-zero entry, bool of shape ``(size,)``.

    The test is exact: ``-0.0`` is zero, the smallest subnormal number is not.

    Args:
      params: the parameters, or the variables that hold them.
      zigs: the groups.

    Raises:
      NonFiniteParametersError: if a parameter holds NaN or infinity.
      ZIGMismatchError: if the parameters are not those of ``zigs``, or hold no values.
    """
    alive = {space.name: np.zeros(space.size, bool) for space in zigs.spaces}
    for path, leaf in check_parameters(zigs, params).items():
        pairs = zigs.members_by_path.get(path, ())
        values = host_values(path, leaf)
        _check_finite(path, values)
        for space, member in pairs:
            alive[space.name] |= _units_with_nonzero(values, member, space.size)
    return alive


def host_values(path: Path, leaf: Any) -> np.ndarray:
    """The array's values on this host, gathered from other processes where they lie there.

    NumPy compares them: XLA may flush subnormal numbers to zero on the way.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ZIGMismatchError(
            f"{format_path(path)!r} is abstract: zero groups can only be read from values; pass"
            " the trained variables"
        )
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _check_finite(path: Path, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteParametersError(
            f"parameter {format_path(path)!r} holds NaN or infinity, so its zero groups mean"
            " nothing; go back to a checkpoint from before the training diverged"
        )


def _units_with_nonzero(values: np.ndarray, member: Member, size: int) -> np.ndarray:
    others = tuple(axis for axis in range(values.ndim) if axis != member.axis)
    alive_positions = (values != 0).any(axis=others)
    alive = np.zeros(size, bool)
    for run in member.runs:
        numbers = run.unit_numbers().ravel()
        alive[numbers[alive_positions[run.positions().ravel()]]] = True
    return alive
