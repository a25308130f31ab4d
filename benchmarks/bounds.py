"""What a figure may be at most: printed, kept in the result file, judged when all is written."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bound:
    """A figure and what it may be at most.

    Attributes:
      what: the figure, in words.
      value: as measured.
      at_most: the bound.
    """

    what: str
    value: float
    at_most: float

    @property
    def is_over(self) -> bool:
        """Whether the figure is larger than it may be, or no number."""
        return not self.value <= self.at_most

    def __str__(self) -> str:
        return f"{self.what}: {self.value:.4g} (at most {self.at_most:g})"


def record(bounds: Sequence[Bound]) -> dict[str, Any]:
    """What a result file says of its bounds: ``bounds``, all of them, and ``over``, by name."""
    return {
        "bounds": {b.what: {"value": b.value, "at_most": b.at_most} for b in bounds},
        "over": [b.what for b in bounds if b.is_over],
    }


def show(bounds: Sequence[Bound]) -> None:
    """Prints figures and bounds."""
    for bound in bounds:
        print(f"{bound}{', over' if bound.is_over else ''}")


def leave_if_over(bounds: Sequence[Bound]) -> None:
    """Ends the program with those bounds that a figure is over, if there are any."""
    if over := [str(bound) for bound in bounds if bound.is_over]:
        sys.exit(f"over its bounds: {'; '.join(over)}")
