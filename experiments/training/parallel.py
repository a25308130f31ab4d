"""Data parallelism, two spellings of it: ``pmap``, and ``jit`` of ``shard_map`` over a mesh.

Both run one function per device, over an axis called `AXIS`, on that device's slice of the
batch; collectives inside the function (``lax.pmean`` of the gradients) make the devices agree.
Under ``pmap`` a replicated tree has a leading axis of devices; on a mesh it is an array with a
replicated sharding. Everything else is the same, and so is the training trajectory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.errors import BatchSizeError, OptionError

AXIS = "devices"
Kind = Literal["pmap", "mesh"]
PerDevice = Callable[[Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How a step is spread over devices.

    Attributes:
      kind: ``"pmap"`` or ``"mesh"``.
      mesh: all devices of all hosts, along one axis called `AXIS`.
    """

    kind: Kind
    mesh: Mesh

    @property
    def devices(self) -> int:
        """Devices of all hosts."""
        return int(self.mesh.size)

    @property
    def local_devices(self) -> int:
        """Devices of this host."""
        return len(self.mesh.local_devices)

    @property
    def host(self) -> int:
        """This host's number."""
        return jax.process_index()

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return jax.process_count()


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the hosts of a multi-host run; call it before anything else touches JAX.

    Args:
      coordinator: ``HOST:PORT`` of process 0; ``"auto"`` lets JAX ask the cluster (TPU pods,
        Slurm, ...); None for a run on one host.
      processes: number of processes, where the coordinator is given by hand.
      process: this process's number, likewise.

    Raises:
      OptionError: if a coordinator's address comes without the numbers.
    """
    if coordinator is None:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    if processes is None or process is None:
        raise OptionError(
            "--coordinator HOST:PORT also needs --processes and --process; or --coordinator auto"
        )
    jax.distributed.initialize(coordinator, processes, process)


def data_parallel(kind: Kind, devices: list[jax.Device] | None = None) -> Parallel:
    """Parallelism over the given devices, by default all devices of all hosts."""
    chosen = np.asarray(jax.devices() if devices is None else devices)
    return Parallel(kind, Mesh(chosen, (AXIS,)))


def check_batch_size(parallel: Parallel, batch_size: int, accumulate: int = 1) -> int:
    """This host's share of a global batch.

    Raises:
      BatchSizeError: if the batch does not divide among devices and accumulation steps.
    """
    parts = parallel.devices * accumulate
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        nearest = f"sizes that are: {below} and {above}" if below else f"size that is: {above}"
        raise BatchSizeError(
            f"batch size {batch_size} is not divisible by {parallel.devices} devices x"
            f" {accumulate} accumulation steps; the nearest {nearest}"
        )
    return batch_size // parallel.devices * parallel.local_devices


def compile_steps(parallel: Parallel, steps: PerDevice) -> Any:
    """Training steps on all devices.

    Args:
      parallel: how.
      steps: ``(state, batches) -> (state, metrics)`` of one device, ending with all devices
        agreed; ``batches`` has the shape ``(steps, per_device_batch, ...)``.

    Returns:
      The same on a replicated state (its memory is reused) and what `shard_steps` returns; the
      metrics come back once, not once per device.
    """
    if parallel.kind == "pmap":
        return jax.pmap(
            steps,
            AXIS,
            in_axes=(0, 0),
            out_axes=(0, None),
            donate_argnums=0,
            devices=list(parallel.mesh.devices.flat),
        )
    mapped = jax.shard_map(
        steps,
        mesh=parallel.mesh,
        in_specs=(P(), P(None, AXIS)),
        out_specs=(P(), P()),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def compile_sum(parallel: Parallel, function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A function of (replicated tree, batch) whose results are added up over all devices.

    Args:
      parallel: how.
      function: of one device's slice of the batch.
    """

    def summed(replicated: Any, batch: Any) -> Any:
        return jax.lax.psum(function(replicated, batch), AXIS)

    if parallel.kind == "pmap":
        devices = list(parallel.mesh.devices.flat)
        return jax.pmap(summed, AXIS, in_axes=(0, 0), out_axes=None, devices=devices)
    return jax.jit(
        jax.shard_map(
            summed, mesh=parallel.mesh, in_specs=(P(), P(AXIS)), out_specs=P(), check_vma=False
        )
    )


def compile_outputs(parallel: Parallel, function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A function of (replicated tree, batch) that returns a row for each example.

    `local_rows` turns what it returns into this host's rows.
    """
    if parallel.kind == "pmap":
        devices = list(parallel.mesh.devices.flat)
        return jax.pmap(function, AXIS, in_axes=(0, 0), devices=devices)
    return jax.jit(
        jax.shard_map(
            function,
            mesh=parallel.mesh,
            in_specs=(P(), P(AXIS)),
            out_specs=P(AXIS),
            check_vma=False,
        )
    )


def local_rows(parallel: Parallel, outputs: Any) -> Any:
    """This host's rows of what `compile_outputs` returned, as NumPy arrays, in batch order."""

    def rows(array: jax.Array) -> np.ndarray:
        axis = 1 if parallel.kind == "pmap" else 0
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        parts = [np.asarray(shard.data) for shard in shards]
        joined = np.concatenate(parts, axis=0)
        return joined.reshape(-1, *joined.shape[2:]) if axis else joined

    return jax.tree.map(rows, outputs)


def replicate(parallel: Parallel, tree: Any) -> Any:
    """A copy of a tree of arrays on every device."""
    if parallel.kind == "pmap":
        count = parallel.local_devices

        def stack(leaf: Any) -> np.ndarray:
            array = np.asarray(leaf)
            return np.broadcast_to(array, (count, *array.shape))

        return _put(parallel, jax.tree.map(stack, tree))
    everywhere = NamedSharding(parallel.mesh, P())
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(everywhere, np.asarray(leaf)), tree
    )


def unreplicate(parallel: Parallel, tree: Any) -> Any:
    """One device's copy of a replicated tree, still on that device."""

    def one(leaf: jax.Array) -> jax.Array:
        data = leaf.addressable_shards[0].data
        return data[0] if parallel.kind == "pmap" else data

    return jax.tree.map(one, tree)


def shard_batch(parallel: Parallel, batch: Any) -> Any:
    """This host's part of a batch, arrays ``(local_batch, ...)``, laid out over its devices."""
    if parallel.kind == "pmap":
        count = parallel.local_devices
        return _put(parallel, jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch))
    return _put(parallel, batch)


def shard_steps(parallel: Parallel, batches: Any) -> Any:
    """As `shard_batch`, for the batches of several steps: ``(steps, local_batch, ...)``."""
    if parallel.kind == "pmap":
        count = parallel.local_devices

        def device_major(array: np.ndarray) -> np.ndarray:
            split = array.reshape(array.shape[0], count, -1, *array.shape[2:])
            return np.moveaxis(split, 1, 0)

        return _put(parallel, jax.tree.map(device_major, batches))
    sharding = NamedSharding(parallel.mesh, P(None, AXIS))
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batches
    )


def wait_for_hosts(parallel: Parallel, what: str) -> None:
    """Waits until every host has come to this point, by whose name they check that it is one."""
    if parallel.hosts > 1:
        multihost_utils.sync_global_devices(what)


def ahead(items: Iterator[Any], count: int) -> Iterator[Any]:
    """The same items, ``count`` of them fetched before they are asked for.

    Work is dispatched to the devices without waiting for it. That keeps them busy, but everything
    dispatched holds memory, so what produces items should not run ahead of its reader without end.
    """
    queue = deque(itertools.islice(items, count))
    while queue:
        item = queue.popleft()
        queue.extend(itertools.islice(items, 1))
        yield item


def _put(parallel: Parallel, tree: Any) -> Any:
    if parallel.kind == "pmap":  # pmap's leading axis counts this host's devices alone.
        local = Mesh(np.asarray(parallel.mesh.local_devices), (AXIS,))
        here = NamedSharding(local, P(AXIS))
        return jax.tree.map(lambda array: jax.device_put(array, here), tree)
    sharding = NamedSharding(parallel.mesh, P(AXIS))
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), tree)
