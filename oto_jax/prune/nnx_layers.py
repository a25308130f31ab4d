"""The width attributes of Flax NNX's own layers, from the shapes of their variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from oto_jax.prune.plan import SOFTMAX_DEPTH

Shape = tuple[int, ...]
Fields = dict[str, Any]


def layer_attributes(module: nnx.Module, full: nnx.Module) -> Fields:
    """The width attributes that a sliced layer has to have; empty for a module of another class.

    Args:
      module: the layer with its variables already sliced.
      full: the same layer of the full model.
    """
    for layer, attributes in _LAYERS:
        if isinstance(module, layer):
            fields = attributes(module, full)
            return {name: fields[name] for name in fields if _has(module, name)}
    return {}


def _has(module: nnx.Module, name: str) -> bool:
    """Attributes differ a little between releases of Flax."""
    return name == SOFTMAX_DEPTH or hasattr(module, name)


def shape(variable: Any, rank: int) -> Shape:
    """The last ``rank`` sizes: axes in front were stacked by ``nnx.vmap`` or ``nnx.scan``."""
    return tuple(variable.get_value().shape[-rank:]) if rank else ()


def _linear(module: Any, full: Any) -> Fields:
    inputs, outputs = shape(module.kernel, 2)
    return {"in_features": inputs, "out_features": outputs}


def _linear_general(module: Any, full: Any) -> Fields:
    ins, outs = len(full.in_features), len(full.out_features)
    kernel = shape(module.kernel, ins + outs)
    return {"in_features": kernel[:ins], "out_features": kernel[ins:]}


def _conv(module: Any, full: Any) -> Fields:
    kernel = shape(module.kernel, len(full.kernel_shape))
    return {
        "kernel_shape": kernel,
        "in_features": kernel[-2] * module.feature_group_count,
        "out_features": kernel[-1],
    }


def _conv_transpose(module: Any, full: Any) -> Fields:
    kernel = shape(module.kernel, len(full.kernel_shape))
    ins, outs = (kernel[-1], kernel[-2]) if full.transpose_kernel else kernel[-2:]
    return {"kernel_shape": kernel, "in_features": ins, "out_features": outs}


def _embed(module: Any, full: Any) -> Fields:
    rows, features = shape(module.embedding, 2)
    return {"num_embeddings": rows, "features": features}


def _einsum(module: Any, full: Any) -> Fields:
    fields: Fields = {"kernel_shape": shape(module.kernel, len(full.kernel_shape))}
    if full.bias_shape is not None:
        fields["bias_shape"] = shape(module.bias, len(full.bias_shape))
    return fields


def _batch_norm(module: Any, full: Any) -> Fields:
    return {"num_features": shape(module.mean, 1)[-1]}


def _norm(module: Any, full: Any) -> Fields:
    for variable in (module.scale, getattr(module, "bias", None)):
        if variable is not None:
            return {"num_features": shape(variable, 1)[-1]}
    return {}


def _group_norm(module: Any, full: Any) -> Fields:
    """Whole groups go: as many channels stay in each as there were."""
    for variable in (module.scale, module.bias):
        if variable is not None:
            return {"num_groups": shape(variable, 1)[-1] // full.group_size}
    return {}


def _lora(module: Any, full: Any) -> Fields:
    return {
        "in_features": shape(module.lora_a, 2)[0],
        "out_features": shape(module.lora_b, 2)[1],
    }


def _attention(module: Any, full: Any) -> Fields:
    """Heads and features; where a head dimension shrinks, what the softmax divides by."""
    inputs, heads, depth = shape(module.query.kernel, 3)
    value_depth = shape(module.value.kernel, 1)[0]
    kv_inputs, kv_heads, _ = shape(module.key.kernel, 3)
    fields: Fields = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": depth,
        "qkv_features": heads * depth,
        "in_features": inputs,
        "in_kv_features": kv_inputs,
        "out_features": shape(module.out.kernel, 3)[-1],
    }
    if (depth, value_depth) != (full.head_dim, full.head_dim):
        fields[SOFTMAX_DEPTH] = full.head_dim
    return fields


def _cell(module: Any, full: Any) -> Fields:
    """The hidden-to-hidden kernel has the hidden features in front, the gates behind."""
    hidden = module.hi if hasattr(module, "hi") else module.dense_h
    inputs = module.ii if hasattr(module, "ii") else module.dense_i
    return {
        "in_features": shape(inputs.kernel, 2)[0],
        "hidden_features": shape(hidden.kernel, 2)[0],
    }


# Layers and their attributes; subclasses come before their bases.
_LAYERS: tuple[tuple[type[nnx.Module], Callable[[Any, Any], Fields]], ...] = (
    (nnx.Linear, _linear),
    (nnx.LinearGeneral, _linear_general),
    (nnx.Conv, _conv),
    (nnx.ConvTranspose, _conv_transpose),
    (nnx.Embed, _embed),
    (nnx.Einsum, _einsum),
    (nnx.BatchNorm, _batch_norm),
    (nnx.LayerNorm, _norm),
    (nnx.RMSNorm, _norm),
    (nnx.InstanceNorm, _norm),
    (nnx.GroupNorm, _group_norm),
    (nnx.LoRA, _lora),
    (nnx.MultiHeadAttention, _attention),
    (nnx.LSTMCell, _cell),
    (nnx.OptimizedLSTMCell, _cell),
    (nnx.SimpleCell, _cell),
    (nnx.GRUCell, _cell),
)
