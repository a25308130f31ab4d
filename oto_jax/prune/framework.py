"""Tells Flax Linen from Flax NNX modules without importing Flax."""

from __future__ import annotations

from typing import Any, Literal


def framework_of(model: Any) -> Literal["linen", "nnx"] | None:
    """Which of Flax's two kinds of module ``model`` is, by the modules its classes come from."""
    for cls in type(model).__mro__:
        if cls.__name__ == "Module" and cls.__module__.startswith("flax.linen"):
            return "linen"
        if cls.__name__ == "Module" and cls.__module__.startswith("flax.nnx"):
            return "nnx"
    return None
