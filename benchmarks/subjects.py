"""The networks whose latency is measured, each defined at any widths by its own constructor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig, LayerWidths
from oto_jax.models.resnet import ResNet50
from oto_jax.models.vgg import VGG16_BN

Kept = Callable[[int], int]  # from a number of units to how many of them stay


def vgg16_bn(kept: Kept) -> nn.Module:
    """VGG16-BN, defined with so many of the units of each layer."""
    full = VGG16_BN()
    widths = tuple(tuple(map(kept, stage)) for stage in full.widths)
    return VGG16_BN(widths=widths, hidden=tuple(map(kept, full.hidden)))


def resnet50(kept: Kept) -> nn.Module:
    """ResNet-50, defined with so many of the channels of each stream and within each block."""
    full = ResNet50()
    assert full.stem is not None
    inner = tuple(tuple(tuple(map(kept, block)) for block in stage) for stage in full.inner)
    return ResNet50(stem=kept(full.stem), streams=tuple(map(kept, full.streams)), inner=inner)


def bert_base(kept: Kept) -> nn.Module:
    """BERT-base, defined with so many of the heads and feed-forward units of each layer."""
    full = BertConfig()
    layers = tuple(
        LayerWidths(kept(layer.heads), layer.qk_dim, layer.v_dim, kept(layer.ffn))
        for layer in full.layers
    )
    return BertForQuestionAnswering(dataclasses.replace(full, layers=layers))


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to prune.

    Attributes:
      define: the module of other widths, by the model's own constructor.
      shape: of one input.
      dtype: of its inputs.
      described: the input, in words.
      rounds_widths: whether odd and rounded widths are measured.
    """

    define: Callable[[Kept], nn.Module]
    shape: tuple[int, ...]
    dtype: Any
    described: str
    rounds_widths: bool = True

    @property
    def model(self) -> nn.Module:
        """The network with all its units."""
        return self.define(lambda size: size)

    def inputs(self, batch: int) -> jax.Array:
        """Normal numbers, or small token numbers, that stay the same from call to call."""
        rng = np.random.default_rng(0)
        shape = (batch, *self.shape)
        if jnp.issubdtype(self.dtype, np.integer):
            return jnp.asarray(rng.integers(1, 1000, shape), self.dtype)
        return jnp.asarray(rng.normal(size=shape), self.dtype)


SUBJECTS = {
    "VGG16-BN": Subject(vgg16_bn, (32, 32, 3), np.float32, "32 x 32 pixels"),
    "ResNet-50": Subject(resnet50, (112, 112, 3), np.float32, "112 x 112 pixels"),
    "BERT-base": Subject(bert_base, (64,), np.int32, "64 tokens", rounds_widths=False),
}
