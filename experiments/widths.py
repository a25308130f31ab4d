"""Narrower copies of the networks, for runs that show the path and not the result."""

from __future__ import annotations

from typing import TypeVar

import flax.linen as nn
import jax

Model = TypeVar("Model", bound=nn.Module)
WIDTHS = ("stem", "streams", "inner", "widths", "hidden")


def quarter_width(model: Model) -> Model:
    """The same network with a quarter of every width.

    Example:
      >>> from oto_jax.models.resnet import ResNet50
      >>> quarter_width(ResNet50()).streams
      (64, 128, 256, 512)
    """
    fields = {name: getattr(model, name) for name in WIDTHS if hasattr(model, name)}
    return model.clone(**jax.tree.map(lambda width: width // 4, fields))
