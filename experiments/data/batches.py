"""Batches of arrays in memory: the same examples at the same step, on any number of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from experiments.errors import OptionError

Batch = dict[str, np.ndarray]


def training_batches(
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    seed: int,
    start: int,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Endless batches in an order shuffled anew each epoch.

    The batch of a step is a pure function of seed and step, so a run goes on exactly where it
    stopped. The last examples of an epoch that do not fill a batch are left out.

    Args:
      arrays: equally long arrays.
      batch_size: examples of all hosts together.
      seed: of the order.
      start: the first step.
      host: this host's number; it gets a contiguous part of each batch.
      hosts: number of hosts.

    Yields:
      The arrays' rows, and ``position``: the examples' numbers in the stream, int32, which is
      what their augmentation is keyed with, wherever they are computed.

    Raises:
      OptionError: if there are fewer examples than one batch.
    """
    size = len(next(iter(arrays.values())))
    per_epoch = size // batch_size
    if per_epoch == 0:
        raise OptionError(f"{size} training examples do not fill one batch of {batch_size}")
    share = batch_size // hosts
    step = start
    while True:
        epoch = step // per_epoch
        order = np.random.default_rng((seed, epoch)).permutation(size)
        while step // per_epoch == epoch:
            first = host * share
            rows = order[step % per_epoch * batch_size + first :][:share]
            position = (step * batch_size + first + np.arange(share)) % 2**31
            yield {
                **{name: array[rows] for name, array in arrays.items()},
                "position": position.astype(np.int32),
            }
            step += 1


def evaluation_batches(
    arrays: Mapping[str, np.ndarray], batch_size: int, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """Every example exactly once, in order; the last batch is filled up with zeros.

    Args:
      arrays: equally long arrays.
      batch_size: examples of all hosts together.
      host: this host's number.
      hosts: number of hosts.

    Yields:
      The arrays' rows, and ``mask``: float32, 0 where a row only fills up.
    """
    size = len(next(iter(arrays.values())))
    share = batch_size // hosts
    for start in range(0, size, batch_size):
        rows = slice(start + host * share, start + (host + 1) * share)
        part = {name: array[rows] for name, array in arrays.items()}
        mask = np.ones(len(next(iter(part.values()))), np.float32)
        yield {name: _filled(array, share) for name, array in {**part, "mask": mask}.items()}


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(array)
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array
