"""What a structure is, and the table of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Structure:
    name: str
    fn: Callable[..., Any]
    shapes: Shapes
    inputs: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


STRUCTURES: dict[str, Structure] = {}


def structure(
    shapes: Shapes, x: tuple[int, ...] | list[tuple[int, ...]], sizes: list[int], **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        inputs = tuple(x) if isinstance(x, list) else (x,)
        name = fn.__name__
        STRUCTURES[name] = Structure(name, fn, shapes, inputs, tuple(sorted(sizes)), options)
        return fn

    return add
