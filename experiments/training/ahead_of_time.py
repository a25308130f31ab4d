"""Compiling a training step for a TPU on a machine that has none.

libtpu's compiler (the extra ``tpu``) needs a topology, not a device: it says what the step takes of
each chip's memory, what it computes, and which collectives run between the chips.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.errors import CompileOnlyError
from experiments.training.parallel import AXIS, Kind, Parallel, PerDevice, compile_steps

# GiB for each JAX device: a chip, but for TPU v2 and v3, whose chips are two devices each
# (cloud.google.com/tpu/docs/system-architecture-tpu-vm).
MEMORY_GIB: Mapping[str, float] = {
    "TPU v2": 8,
    "TPU v3": 16,
    "TPU v4": 32,
    "TPU v5 lite": 16,
    "TPU v5": 95,
    "TPU v6 lite": 32,
}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"(f32|bf16|f16|s32|u32|pred|s8|u8)\[([\d,]*)\]")
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compiled step takes of each device.

    Attributes:
      device: its kind.
      devices: how many.
      memory_bytes: arguments, results and temporaries, without what is used twice.
      available_bytes: the device's memory; None where unknown.
      flops: floating-point operations of one step on one device.
      collectives: for each kind: how many, and the bytes of their results.
      compile_seconds: how long the compiler took.
    """

    device: str
    devices: int
    memory_bytes: int
    available_bytes: int | None
    flops: float
    collectives: Mapping[str, tuple[int, int]]
    compile_seconds: float

    @property
    def fits(self) -> bool | None:
        """Whether the step fits into a device's memory; None where that is unknown."""
        return None if self.available_bytes is None else self.memory_bytes <= self.available_bytes

    def __str__(self) -> str:
        available = "unknown" if self.available_bytes is None else _gib(self.available_bytes)
        verdict = {True: "fits", False: "DOES NOT FIT", None: "unknown whether it fits"}[self.fits]
        collectives = [
            f"  {kind}: {count}, {size / 2**20:.1f} MiB"
            for kind, (count, size) in sorted(self.collectives.items())
        ]
        return "\n".join(
            [
                f"{self.devices} x {self.device}, compiled in {self.compile_seconds:.0f} s",
                f"  memory per device: {_gib(self.memory_bytes)} of {available}: {verdict}",
                f"  FLOPs per device and step: {self.flops:.4g}",
                *(collectives or ["  no collectives"]),
            ]
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def tpu(topology: str, kind: Kind) -> Parallel:
    """Parallelism over a TPU that need not be there.

    Args:
      topology: such as ``v5e:2x4``.
      kind: ``pmap`` or ``mesh``.

    Raises:
      CompileOnlyError: if libtpu is missing or does not know the topology.
    """
    # Without these, libtpu asks the cloud's metadata server which TPU it is on, and waits.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # libtpu reports every failure as another kind of error.
        raise CompileOnlyError(
            f"no compiler for the topology {topology!r}; install libtpu with pip install"
            f" 'oto_jax[tpu]' (topologies are written as v5e:2x4, v4:2x2x2): {error}"
        ) from error
    return Parallel(kind, Mesh(np.asarray(described.devices), (AXIS,)))


def compile_for(parallel: Parallel, steps: PerDevice, state: Any, batch: Any) -> Report:
    """Compiles training steps for devices that need not be there.

    Args:
      parallel: the devices, from `tpu`.
      steps: ``(state, batches) -> (state, metrics)`` of one device.
      state: shapes of the state, one copy.
      batch: shapes of one step's batch over all devices, ``(batch, ...)``.
    """
    count = parallel.devices
    if parallel.kind == "pmap":
        state = jax.tree.map(lambda leaf: _shaped((count, *leaf.shape), leaf.dtype), state)
        batch = jax.tree.map(
            lambda leaf: _shaped((count, 1, leaf.shape[0] // count, *leaf.shape[1:]), leaf.dtype),
            batch,
        )
    else:
        everywhere = NamedSharding(parallel.mesh, P())
        split = NamedSharding(parallel.mesh, P(None, AXIS))
        state = jax.tree.map(lambda leaf: _shaped(leaf.shape, leaf.dtype, everywhere), state)
        batch = jax.tree.map(lambda leaf: _shaped((1, *leaf.shape), leaf.dtype, split), batch)
    start = time.perf_counter()
    compiled = compile_steps(parallel, steps).lower(state, batch).compile()
    return _report(parallel, compiled, time.perf_counter() - start)


def _shaped(shape: tuple[int, ...], dtype: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _report(parallel: Parallel, compiled: Any, seconds: float) -> Report:
    memory = compiled.memory_analysis()
    device = parallel.mesh.devices.flat[0].device_kind
    available = MEMORY_GIB.get(device)
    return Report(
        device=device,
        devices=parallel.devices,
        memory_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        available_bytes=None if available is None else int(available * 2**30),
        flops=float(compiled.cost_analysis().get("flops", float("nan"))),
        collectives=count_collectives(compiled.as_text()),
        compile_seconds=seconds,
    )


def count_collectives(program: str) -> dict[str, tuple[int, int]]:
    """How many collectives an HLO program has, of each kind, and the bytes of their results.

    Example:
      >>> count_collectives("%a = f32[8,4]{1,0} all-reduce(%b), channel_id=1")
      {'all-reduce': (1, 128)}
    """
    counts: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    for result, kind in _COLLECTIVE.findall(program):
        count, size = counts[kind]
        counts[kind] = (count + 1, size + sum(_size(*shape) for shape in _SHAPE.findall(result)))
    return dict(counts)


def _size(dtype: str, dims: str) -> int:
    return _BYTES[dtype] * int(np.prod([int(d) for d in dims.split(",") if d], dtype=np.int64))
