"""The shape of a BERT as numbers in frozen data, a pruned one's too, and how to compute it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")


class BertConfigError(ValueError):
    """A configuration that no BERT can have, or inputs that do not fit it."""


@dataclasses.dataclass(frozen=True)
class LayerWidths:
    """The widths of one layer.

    Attributes:
      heads: attention heads.
      qk_dim: dimensions of a query and of a key, per head.
      v_dim: dimensions of a value, per head.
      ffn: intermediate units of the feed-forward part.
    """

    heads: int
    qk_dim: int
    v_dim: int
    ffn: int

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0:
            raise BertConfigError(f"widths cannot be negative: {self}")


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT; the defaults are BERT-base, uncased.

    Attributes:
      layers: one `LayerWidths` per layer.
      hidden: width of the residual stream.
      vocabulary: rows of the word embedding.
      positions: the longest sequence.
      token_types: kinds of segments.
      softmax_scale: what scores are multiplied with; 1 / sqrt(the unpruned qk_dim).
      activation: one of `ACTIVATIONS`; ``"gelu"`` is the exact one (erf), as BERT's.
      dropout: rate on the embeddings and on each sublayer's output.
      attention_dropout: rate on the attention probabilities.
      norm_epsilon: added to LayerNorm's variance.
      init_stddev: deviation of the truncated normal that weights start from.

    Example:
      >>> tiny = BertConfig.uniform(depth=2, hidden=128, heads=2, ffn=512)
      >>> tiny.layers[0]
      LayerWidths(heads=2, qk_dim=64, v_dim=64, ffn=512)
      >>> tiny.softmax_scale
      0.125
    """

    layers: tuple[LayerWidths, ...] = (LayerWidths(12, 64, 64, 3072),) * 12
    hidden: int = 768
    vocabulary: int = 30522
    positions: int = 512
    token_types: int = 2
    softmax_scale: float = 0.125
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_epsilon: float = 1e-12
    init_stddev: float = 0.02

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise BertConfigError(f"unknown activation {self.activation!r}; there are {known}")
        if min(self.hidden, self.vocabulary, self.positions, self.token_types) < 1:
            raise BertConfigError("hidden, vocabulary, positions and token_types are at least 1")

    @classmethod
    def uniform(cls, depth: int, hidden: int, heads: int, ffn: int, **other: Any) -> BertConfig:
        """An unpruned BERT: every layer alike, ``hidden / heads`` dimensions per head.

        Raises:
          BertConfigError: if the heads do not divide the hidden width.
        """
        if heads < 1 or hidden % heads:
            raise BertConfigError(f"{heads} heads do not divide a hidden width of {hidden}")
        dim = hidden // heads
        layers = (LayerWidths(heads, dim, dim, ffn),) * depth
        return cls(layers=layers, hidden=hidden, softmax_scale=dim**-0.5, **other)

    def with_widths_of(self, params: Mapping[str, Any]) -> BertConfig:
        """This configuration with the layers' widths read off pruned parameters.

        Args:
          params: parameters of `BertEncoder` or `BertForQuestionAnswering`; arrays or shapes.
        """
        encoder = params.get("encoder", params)
        layers = tuple(_widths_of(encoder[f"layer_{i}"]) for i in range(len(self.layers)))
        return dataclasses.replace(self, layers=layers)


def _widths_of(layer: Mapping[str, Any]) -> LayerWidths:
    _, heads, qk_dim = layer["attention"]["query"]["kernel"].shape
    v_dim = layer["attention"]["value"]["kernel"].shape[-1]
    return LayerWidths(heads, qk_dim, v_dim, layer["ffn"]["intermediate"]["kernel"].shape[-1])


@dataclasses.dataclass(frozen=True)
class Compute:
    """How to compute, which does not change what is computed.

    Attributes:
      dtype: of the activations; None takes the parameters'. Softmax and LayerNorm's statistics
        are in float32 at least.
      param_dtype: of the parameters.
      attention: ``"einsum"`` works everywhere; ``"xla"`` and ``"cudnn"`` go through
        `jax.nn.dot_product_attention` with that implementation (cuDNN's flash attention needs
        bfloat16 or float16 and a GPU). Those have no dropout on the probabilities, so training
        with them needs ``attention_dropout=0``.
      remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention: Literal["einsum", "xla", "cudnn"] = "einsum"
    remat: bool = False

    def __post_init__(self) -> None:
        if self.attention not in ("einsum", "xla", "cudnn"):
            raise BertConfigError(
                f"unknown attention {self.attention!r}; there are einsum, xla and cudnn"
            )
