"""Where in the user's own code an equation comes from."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

FRAMEWORKS = ("jax", "jaxlib", "flax", "optax", "haiku", "equinox", "keras")


def _folders() -> Iterator[str]:
    for name in FRAMEWORKS:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            yield os.path.dirname(os.path.abspath(spec.origin)) + os.sep
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    yield from (os.path.join(package, part) + os.sep for part in ("zigs", "prune"))


@functools.cache
def _framework_folders() -> tuple[str, ...]:
    return tuple(_folders())


@functools.lru_cache(maxsize=4096)
def _is_framework(file_name: str) -> bool:
    return os.path.abspath(file_name).startswith(_framework_folders())


def source_line(eqn: Any) -> str | None:
    """``file.py:12`` of the innermost frame outside the frameworks, if it is known."""
    traceback = eqn.source_info.traceback
    if traceback is None:
        return None
    for frame in traceback.frames:
        if not _is_framework(frame.file_name):
            return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    return None
