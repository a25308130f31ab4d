"""Leaving in time: SIGTERM, Ctrl-C and a limit of minutes become a request to save and stop."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Self

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """Whether the run was asked to stop; use it in a ``with`` block.

    A second signal gets the behaviour it had before, so Ctrl-C twice ends the program at once.
    """

    def __init__(self, max_minutes: float | None) -> None:
        self._deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self._signal: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, self._before[number])

    @property
    def reason(self) -> str | None:
        """Why this host should stop, or None."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "--max-minutes"
        return None

    def agreed(self) -> str | None:
        """Why the run should stop: a reason on any host stops all of them at the same step."""
        if jax.process_count() == 1:
            return self.reason
        asked = multihost_utils.process_allgather(np.asarray(self.reason is not None))
        return (self.reason or "another host's request") if asked.any() else None
