"""Which positions survive along every dimension of a program, from what is kept of its inputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Atom, Dim
from oto_jax.zigs.partition import Run
from oto_jax.zigs.program import Value


class Kept(NamedTuple):
    """What stays of an axis.

    Attributes:
      positions: ascending.
      gone: where spaces of which nothing stays lie along it. An axis of heads times dimensions of
        which nothing stays does not tell by itself which of the two is gone.
    """

    positions: np.ndarray
    gone: tuple[Run, ...] = ()


class Survivors:
    """The kept units of each atom; the kept positions of any dimension follow from them."""

    def __init__(self) -> None:
        self._units: dict[Atom, np.ndarray] = {}
        self._positions: dict[Dim, np.ndarray | None] = {}

    def assign(self, dim: Dim, kept: Kept, name: str) -> None:
        """Say what stays along ``dim``.

        Raises:
          ZIGMismatchError: if those positions are not whole units of the dimension's atoms, or
            another input already says otherwise.
        """
        self._positions.clear()
        mask = np.zeros(dim.size, bool)
        mask[kept.positions] = True
        for atom, run in d.runs(dim):
            alive = np.zeros(atom.size, bool)
            units, stays = run.unit_numbers().ravel(), mask[run.positions().ravel()]
            if not stays.any() and not (_is_alone(run) or run in kept.gone):
                continue
            alive[units[stays]] = True
            known = self._units.get(atom)
            # Two factors of one axis each see the other's cut as a partial one; both may shrink.
            self._units[atom] = alive if known is None else known & alive
        if not np.array_equal(self.kept(dim), kept.positions):
            raise ZIGMismatchError(
                f"{name}: what is kept does not follow the structure of this program; narrow the"
                " function that the ZIGs were found with"
            )

    def gone(self, dim: Dim) -> tuple[Run, ...]:
        """Where atoms of which nothing stays lie along ``dim``."""
        units = ((run, self._units.get(atom)) for atom, run in d.runs(dim))
        return tuple(run for run, alive in units if alive is not None and not alive.any())

    def positions(self, dim: Dim) -> np.ndarray | None:
        """The surviving positions, ascending; None when all survive."""
        if dim not in self._positions:
            self._positions[dim] = self._compute(d.resolve(dim))
        return self._positions[dim]

    def _compute(self, dim: Dim) -> np.ndarray | None:
        if isinstance(dim, Atom):
            units = self._units.get(dim)
            return None if units is None or units.all() else np.flatnonzero(units)
        parts = [self.positions(part) for part in dim.parts]
        if all(part is None for part in parts):
            return None
        whole = [
            np.arange(dim.parts[i].size) if part is None else part for i, part in enumerate(parts)
        ]
        if isinstance(dim, d.Concat):
            starts = np.cumsum([0, *(part.size for part in dim.parts[:-1])])
            return np.concatenate([start + part for start, part in zip(starts, whole, strict=True)])
        found = np.zeros(1, np.int64)
        for part, kept in zip(dim.parts, whole, strict=True):
            found = (found[:, None] * part.size + kept[None, :]).ravel()
        return found

    def kept(self, dim: Dim) -> np.ndarray:
        """The surviving positions, spelled out."""
        found = self.positions(dim)
        return np.arange(dim.size) if found is None else found

    def count(self, dim: Dim) -> int:
        """How many positions survive."""
        found = self.positions(dim)
        return dim.size if found is None else len(found)

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value at the surviving widths."""
        return tuple(self.count(dim) for dim in value.dims)

    def cut_atoms(self) -> list[Atom]:
        """The atoms of which not everything stays."""
        return [atom for atom, alive in self._units.items() if not alive.all()]

    def is_cut(self, value: Value) -> bool:
        """Whether any axis of a value is narrower."""
        return any(self.positions(dim) is not None for dim in value.dims)


def _is_alone(run: Run) -> bool:
    """Whether each unit is one position: no other factor shares the run's part of the axis."""
    return math.prod(run.shape) == run.units
