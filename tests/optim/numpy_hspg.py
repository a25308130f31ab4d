"""The original's rules, written anew in NumPy on matrices with one row per group.

Nothing here is shared with the library: it takes the groups as lists of entries, one row per group,
and follows section 3.2 of the paper and the conventions of its reference implementation: the norm
plus 1e-6 in the sub-gradient, the strict half-space test with the iterate before the step, one
momentum buffer per stage, and a bound on the share of zero groups in each space.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

Entries = list[list[tuple[str, tuple[int, ...]]]]
"""A space: for each group, its entries as (name of the array, index)."""


@dataclasses.dataclass
class NumpyHSPG:
    spaces: dict[str, Entries]
    lmbda: float
    momentum: float
    start_step: int
    epsilon: dict[str, float]
    upper: dict[str, float]

    def __post_init__(self):
        self.step_count = 0
        self.buffers: dict[str, np.ndarray] = {}

    def step(self, params, grads, rate):
        """One step, in place."""
        if self.step_count == self.start_step:
            self.buffers = {}
        grouped = {entry for rows in self.spaces.values() for row in rows for entry in row}
        for name, rows in self.spaces.items():
            x, g = gather(params, rows), gather(grads, rows)
            scatter(params, rows, self.space_step(name, x, g, rate))
        for name, x in params.items():
            free = np.ones(x.shape, bool)
            for entry in grouped:
                if entry[0] == name:
                    free[entry[1]] = False
            x[free] -= rate * self.remember(f"free {name}", grads[name][free])
        self.step_count += 1

    def space_step(self, name, x, g, rate):
        norm = np.sqrt(np.sum(x**2, axis=1))
        lasso = np.where(norm[:, None] > 0, x / (norm[:, None] + 1e-6), 0.0)
        trial = x - rate * self.remember(name, g + self.lmbda * lasso)
        if self.step_count < self.start_step:
            return trial
        product = np.sum(trial * x, axis=1)
        alive = norm > 0
        crossing = alive & (product < self.epsilon[name] * norm**2)
        room = math.floor(self.upper[name] * len(x) + 1e-9) - np.sum(~alive)
        ratio = np.where(crossing, product / np.where(alive, norm**2, 1), np.inf)
        for i in np.argsort(ratio, kind="stable")[max(room, 0) :]:
            crossing[i] = False
        trial[crossing | ~alive] = 0.0
        return trial

    def remember(self, key, gradient):
        if self.momentum == 0:
            return gradient
        self.buffers[key] = self.momentum * self.buffers.get(key, 0.0) + gradient
        return self.buffers[key]


def gather(arrays, rows):
    return np.array([[arrays[name][index] for name, index in row] for row in rows])


def scatter(arrays, rows, values):
    for row, new in zip(rows, values, strict=True):
        for (name, index), value in zip(row, new, strict=True):
            arrays[name][index] = value


def entries_of(masks, spaces):
    """The entries of every group, read from `ZIGs.masks` by brute force."""
    groups: dict[int, list] = {}
    for name, (numbers, shape) in masks.items():
        whole = np.broadcast_to(numbers, shape)
        for index in np.ndindex(shape):
            if whole[index] >= 0:
                groups.setdefault(int(whole[index]), []).append((name, index))
    return {space.name: [groups[g] for g in space.groups] for space in spaces}
