"""What a run writes while it trains: JSON lines, TensorBoard, a progress bar.

``metrics.jsonl`` holds only what the computation decides, so that two runs of one configuration,
interrupted or not, write the same bytes; times are in ``timing.jsonl``.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import tqdm
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar


@dataclasses.dataclass
class MetricWriter:
    """Writes a run's metrics; hosts other than the first write nothing.

    Attributes:
      folder: the run's folder.
      first_step: lines and events from this step on are dropped, for they come again.
    """

    folder: Path
    first_step: int

    def __post_init__(self) -> None:
        self._active = jax.process_index() == 0
        if not self._active:
            return
        for name in ("metrics.jsonl", "timing.jsonl"):
            _keep_steps_up_to(self.folder / name, self.first_step)
        board = self.folder / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not tensorboardX's SummaryWriter, whose thread dies on a full disk and leaves us waiting.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._board = RecordWriter(str(board / name))
        self._write_event(file_version="brain.Event:2")
        self._write_event(session_log=SessionLog(status=SessionLog.START), step=self.first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Values that the computation decides."""
        self._append("metrics.jsonl", step, values)

    def write_timing(self, step: int, values: Mapping[str, float]) -> None:
        """Values that depend on the machine and the hour."""
        self._append("timing.jsonl", step, values)

    def _append(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if not self._active:
            return
        with (self.folder / name).open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for key, value in values.items():
            self._write_event(summary=scalar(key, value), step=step)
        self._board.flush()

    def _write_event(self, **fields: Any) -> None:
        self._board.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._active:
            self._board.close()


def _keep_steps_up_to(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # A kill can cut the last line; its step is run again.
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's ``metrics.jsonl``."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@dataclasses.dataclass
class Throughput:
    """Examples per second since the last call."""

    examples_per_step: int
    step: int
    time: float = dataclasses.field(default_factory=time.perf_counter)

    def since(self, step: int) -> dict[str, float]:
        """Throughput and milliseconds per step since the last call, up to ``step``."""
        now = time.perf_counter()
        steps, seconds = step - self.step, now - self.time
        self.step, self.time = step, now
        if steps == 0:
            return {}
        return {
            "examples_per_second": self.examples_per_step * steps / seconds,
            "milliseconds_per_step": 1000 * seconds / steps,
        }


def progress_bar(total: int, start: int) -> tqdm.tqdm[Any]:
    """A bar with steps per second and the time left, on the first host."""
    return tqdm.tqdm(
        total=total,
        initial=start,
        unit="step",
        dynamic_ncols=True,
        mininterval=1.0,
        disable=jax.process_index() != 0,
    )
