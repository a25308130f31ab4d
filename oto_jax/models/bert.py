"""BERT and its question-answering head, with every width in the configuration.

Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding", NAACL 2019 (arXiv:1810.04805). Each layer has its own number of heads, its
own query/key and value dimensions and its own feed-forward width, so that a pruned BERT is the same
class with another configuration; the softmax scale is a number of its own and stays what it was
when query/key dimensions go. Any width may be zero: the layer then passes its input on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from oto_jax.models.bert_config import BertConfig, BertConfigError, Compute, LayerWidths

_FUNCTIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}


def _dense(
    config: BertConfig,
    compute: Compute,
    features: int | tuple[int, ...],
    axis: Any = -1,
    **other: Any,
) -> nn.DenseGeneral:
    start = nn.initializers.truncated_normal(config.init_stddev)
    return nn.DenseGeneral(features, axis, kernel_init=start, **_types(compute), **other)


def _embedding(config: BertConfig, compute: Compute, rows: int, name: str) -> nn.Embed:
    start = nn.initializers.truncated_normal(config.init_stddev)
    return nn.Embed(rows, config.hidden, embedding_init=start, name=name, **_types(compute))


def _norm(config: BertConfig, compute: Compute, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.norm_epsilon, name=name, **_types(compute))


def _types(compute: Compute) -> dict[str, Any]:
    return {"dtype": compute.dtype, "param_dtype": compute.param_dtype}


class Embeddings(nn.Module):
    """Word, position and segment embeddings, added and normalised (section 3)."""

    config: BertConfig
    compute: Compute

    @nn.compact
    def __call__(self, input_ids: jax.Array, token_types: jax.Array, train: bool) -> jax.Array:
        config = self.config
        embed = functools.partial(_embedding, config, self.compute)
        words = embed(config.vocabulary, "word")(input_ids)
        kinds = embed(config.token_types, "token_type")(token_types)
        places = embed(config.positions, "position")(jnp.arange(input_ids.shape[-1]))
        summed = _norm(config, self.compute, "norm")(words + kinds + places[None])
        return nn.Dropout(config.dropout, deterministic=not train)(summed)


class SelfAttention(nn.Module):
    """Multi-head attention; kernels keep heads and dimensions on axes of their own."""

    config: BertConfig
    compute: Compute
    widths: LayerWidths

    @nn.compact
    def __call__(self, hidden: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        dense = functools.partial(_dense, self.config, self.compute)
        heads, widths = self.widths.heads, self.widths
        query = dense((heads, widths.qk_dim), name="query")(hidden)
        key = dense((heads, widths.qk_dim), name="key")(hidden)
        value = dense((heads, widths.v_dim), name="value")(hidden)
        attend = self._attend if self.compute.attention == "einsum" else self._attend_fused
        mixed = attend(query, key, value, mask, train)
        return dense(self.config.hidden, (-2, -1), name="output")(mixed)

    def _attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        """softmax(scale q k^T) v, arrays of shape (batch, sequence, heads, dimensions)."""
        exact = jnp.promote_types(query.dtype, jnp.float32)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=exact)
        scores = jnp.where(mask, scores * self.config.softmax_scale, jnp.finfo(exact).min)
        probabilities = nn.softmax(scores).astype(value.dtype)
        rate = self.config.attention_dropout
        probabilities = nn.Dropout(rate, deterministic=not train)(probabilities)
        return jnp.einsum("bhqk,bkhd->bqhd", probabilities, value)

    def _attend_fused(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        if train and self.config.attention_dropout > 0:
            raise BertConfigError(
                f"attention={self.compute.attention!r} has no dropout on the probabilities;"
                " train with attention_dropout=0 or attention='einsum'"
            )
        # One dimension for q, k and v, a multiple of 8 for cuDNN: zero columns change nothing.
        size = -(-max(query.shape[-1], value.shape[-1], 1) // 8) * 8
        mixed = jax.nn.dot_product_attention(
            _pad_last(query, size),
            _pad_last(key, size),
            _pad_last(value, size),
            # cuDNN takes no mask with a query axis of 1.
            mask=jnp.broadcast_to(mask, (mask.shape[0], 1, query.shape[1], mask.shape[3])),
            scale=self.config.softmax_scale,
            implementation="cudnn" if self.compute.attention == "cudnn" else "xla",
        )
        return mixed[..., : value.shape[-1]]


def _pad_last(array: jax.Array, size: int) -> jax.Array:
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])])


class FeedForward(nn.Module):
    """Two dense layers with BERT's activation between."""

    config: BertConfig
    compute: Compute
    units: int

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        dense = functools.partial(_dense, self.config, self.compute)
        inner = _FUNCTIONS[self.config.activation](dense(self.units, name="intermediate")(hidden))
        return dense(self.config.hidden, name="output")(inner)


class BertLayer(nn.Module):
    """Attention and feed-forward part, each added to the stream and normalised after that."""

    config: BertConfig
    compute: Compute
    widths: LayerWidths

    @nn.compact
    def __call__(self, hidden: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        parts = (self.config, self.compute)
        drop = functools.partial(nn.Dropout, self.config.dropout, deterministic=not train)
        mixed = SelfAttention(*parts, self.widths, name="attention")(hidden, mask, train)
        hidden = _norm(*parts, "attention_norm")(hidden + drop()(mixed))
        change = FeedForward(*parts, self.widths.ffn, name="ffn")(hidden)
        return _norm(*parts, "ffn_norm")(hidden + drop()(change))


class BertEncoder(nn.Module):
    """BERT without a head: token ids to hidden states.

    Args of the call:
      input_ids: int array of shape (batch, sequence).
      token_types: int array of the same shape (0: question, 1: context); None means all 0.
      attention_mask: True or 1 where there is a token, 0 where there is padding; None means all 1.
      train: whether dropout is on; it then needs the random stream ``"dropout"``.

    Returns of the call:
      Hidden states, shape (batch, sequence, hidden).

    Raises:
      BertConfigError: if the sequence is longer than the configured positions.
    """

    config: BertConfig = BertConfig()
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        token_types: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        length = input_ids.shape[-1]
        if length > self.config.positions:
            raise BertConfigError(
                f"a sequence of {length} tokens is longer than the {self.config.positions}"
                " positions of this BERT; cut the text into windows"
            )
        token_types = jnp.zeros_like(input_ids) if token_types is None else token_types
        mask = jnp.ones_like(input_ids) if attention_mask is None else attention_mask
        keys = mask.astype(bool)[:, None, None, :]
        hidden = Embeddings(self.config, self.compute, name="embeddings")(
            input_ids, token_types, train
        )
        # Argument 3 of a layer's call (`train`, after self, hidden and mask) is no array.
        layer = nn.remat(BertLayer, static_argnums=(3,)) if self.compute.remat else BertLayer
        for number, widths in enumerate(self.config.layers):
            block = layer(self.config, self.compute, widths, name=f"layer_{number}")
            hidden = block(hidden, keys, train)
        return hidden


class BertForQuestionAnswering(nn.Module):
    """BERT that scores every token as the start and as the end of the answer (section 4.2).

    The call takes what `BertEncoder` takes and returns logits of shape (batch, sequence, 2):
    start and end, in float32 at least.

    Example:
      >>> config = BertConfig.uniform(depth=1, hidden=8, heads=2, ffn=16, vocabulary=50)
      >>> model = BertForQuestionAnswering(config)
      >>> ids = jnp.array([[2, 7, 3, 9, 11, 3]])
      >>> model.init_with_output(jax.random.key(0), ids)[0].shape
      (1, 6, 2)
    """

    config: BertConfig = BertConfig()
    compute: Compute = Compute()

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        token_types: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        encoder = BertEncoder(self.config, self.compute, name="encoder")
        hidden = encoder(input_ids, token_types, attention_mask, train=train)
        logits = _dense(self.config, self.compute, 2, name="qa_outputs")(hidden)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
