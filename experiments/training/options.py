"""The options that every training script shares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import jax.numpy as jnp

from experiments.errors import OptionError

SEEDS = 2**32 - 1
"""The largest seed that NumPy and JAX both take."""


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, whatever it trains.

    Attributes:
      name: of the run: its folder is ``runs/NAME`` and its result ``results/NAME.json``. Default:
        the script's name.
      workdir: the run's folder, if it shall be elsewhere; the same command goes on where the run
        stopped.
      seed: of the parameters, the data's order, augmentation and dropout.
      parallel: ``pmap``, or ``jit`` over a mesh of devices.
      accumulate: accumulation steps: each device's batch is run in that many parts.
      steps_per_call: training steps per dispatch; more (say 50) keep a fast accelerator busy,
        on a CPU 1 is faster. Logs, evaluations, checkpoints and stops fall between dispatches.
      log_every: steps between lines of metrics.
      checkpoint_every: steps between checkpoints.
      evaluate_every: epochs between evaluations on the whole test set; 0: only at the end.
      shrink_every: epochs between cutting dead groups out of the network that trains; 0: only
        at the end.
      max_minutes: save and leave after so many minutes; run the same command to go on.
      stop_after: save and leave after so many steps in all, for trying things out.
      workers: worker processes that read and decode, where the data is read while training (about
        one for each core); 0: threads of this process.
      coordinator: for several hosts: ``HOST:PORT`` of process 0, or ``auto`` on TPU pods, Slurm
        and other clusters that JAX knows.
      processes: how many, with ``HOST:PORT``.
      process: this one's number, with ``HOST:PORT``.
      smoke: run the whole path in about a minute on two cores: real data, few steps.
    """

    name: str | None = None
    workdir: Path | None = None
    seed: int = 0
    parallel: Literal["pmap", "mesh"] = "pmap"
    accumulate: int = 1
    steps_per_call: int = 1
    log_every: int = 100
    checkpoint_every: int = 2000
    evaluate_every: int = 1
    shrink_every: int = 0
    max_minutes: float | None = None
    stop_after: int | None = None
    workers: int = 0
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    smoke: bool = False

    def __post_init__(self) -> None:
        steps = ("accumulate", "steps_per_call", "log_every", "checkpoint_every", "stop_after")
        check_range(self, steps, low=1)
        counts = ("evaluate_every", "shrink_every", "workers", "max_minutes", "process")
        check_range(self, counts, low=0)
        check_range(self, ("processes",), low=1)
        check_range(self, ("seed",), low=0, high=SEEDS)
        if self.name is not None and (not self.name.strip(".") or {"/", "\\"} & set(self.name)):
            raise OptionError(
                f"--name {self.name!r} names a folder and a file of their own: it has no slash, and"
                " more than dots"
            )
        if self.coordinator is None and (self.processes, self.process) != (None, None):
            raise OptionError("--processes and --process need --coordinator, for hosts to meet at")


def check_range(
    options: Any, names: Iterable[str], *, low: float | None = None, high: float | None = None
) -> None:
    """Checks that options are finite numbers in a range; None stands for none.

    Raises:
      OptionError: naming the option, its range and its value.
    """
    for name in names:
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            above = low is None or number >= low
            if not (math.isfinite(number) and above and (high is None or number <= high)):
                least = "" if low is None else f" of at least {low}"
                most = "" if high is None else f" and at most {high}"
                raise OptionError(
                    f"--{name.replace('_', '-')} must be a number{least}{most}, not {number}"
                )


def check_dtype(name: str) -> None:
    """Checks that a network can compute in a type.

    Raises:
      OptionError: if it is no floating-point type.
    """
    try:
        floating = jnp.issubdtype(jnp.dtype(name), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise OptionError(f"--dtype {name} is no floating-point type: float32, bfloat16, ...")


# They decide where, when and how fast a run computes, not what.
NO_EFFECT_ON_THE_RESULT = frozenset(
    "name workdir cache parallel max_minutes stop_after workers"
    " coordinator processes process".split()
)

Config = TypeVar("Config")


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, without what has no effect on a run's result.

    Args:
      config: a dataclass of plain values, tuples, paths and dataclasses.
    """
    return {
        field.name: _json(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in NO_EFFECT_ON_THE_RESULT
    }


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_json(default: Config, values: Mapping[str, Any]) -> Config:
    """The configuration that `to_json` wrote, with ``default``'s values where it wrote none."""
    hints = get_type_hints(type(default))
    changes = {
        name: _value(getattr(default, name), hints[name], value) for name, value in values.items()
    }
    return dataclasses.replace(default, **changes)  # type: ignore[type-var]


def _value(default: Any, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(default):
        return from_json(default, value)
    if isinstance(value, list):
        return tuple(_value(None, None, item) for item in value)
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    return value
