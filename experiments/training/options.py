"""The options that every training script shares."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.errors import OptionError


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out, whatever it trains.

    Attributes:
      workdir: the run's folder; the same command goes on where the run stopped. Default:
        ``runs/`` and the script's name.
      seed: of the parameters, the data's order, augmentation and dropout.
      parallel: ``pmap``, or ``jit`` over a mesh of devices.
      accumulate: accumulation steps: each device's batch is run in that many parts.
      steps_per_call: training steps per dispatch; more (say 50) keep a fast accelerator busy,
        on a CPU 1 is faster. Logs, evaluations, checkpoints and stops fall between dispatches.
      log_every: steps between lines of metrics.
      checkpoint_every: steps between checkpoints.
      evaluate_every: epochs between evaluations on the whole test set.
      shrink_every: epochs between cutting dead groups out of the network that trains; 0: only
        at the end.
      max_minutes: save and leave after so many minutes; run the same command to go on.
      stop_after: save and leave after so many steps in all, for trying things out.
      coordinator: for several hosts: ``HOST:PORT`` of process 0, or ``auto`` on TPU pods, Slurm
        and other clusters that JAX knows.
      processes: how many, with ``HOST:PORT``.
      process: this one's number, with ``HOST:PORT``.
      smoke: run the whole path in about a minute on two cores: real data, few steps.
    """

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
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    smoke: bool = False

    def __post_init__(self) -> None:
        for name in ("accumulate", "steps_per_call", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name.replace('_', '-')} must be at least 1")
        for name in ("evaluate_every", "shrink_every"):
            if getattr(self, name) < 0:
                raise OptionError(f"--{name.replace('_', '-')} must not be negative")
        if self.max_minutes is not None and self.max_minutes < 0:
            raise OptionError("--max-minutes must not be negative")


# They decide where, when and how fast a run computes, not what.
NO_EFFECT_ON_THE_RESULT = frozenset(
    ["workdir", "parallel", "max_minutes", "stop_after", "coordinator", "processes", "process"]
)


def identity(config: Any) -> dict[str, Any]:
    """What decides a run's result: a configuration's values but for where and how long it runs.

    Args:
      config: a dataclass whose field ``run`` is a `RunOptions`.

    Returns:
      JSON values by dotted name.
    """
    values: dict[str, Any] = {"script": type(config).__module__ + "." + type(config).__qualname__}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name != "run":
            values[field.name] = _json(value)
            continue
        for option in dataclasses.fields(value):
            if option.name not in NO_EFFECT_ON_THE_RESULT:
                values[option.name] = _json(getattr(value, option.name))
    return values


def _json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return value
