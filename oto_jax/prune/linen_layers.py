"""The width fields of Flax Linen's own layers, from the shapes of their parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from oto_jax.prune.configuration import replaced
from oto_jax.prune.plan import SOFTMAX_DEPTH, Override
from oto_jax.prune.softmax_depth import scaled_attention
from oto_jax.zigs.partition import Path

Shape = tuple[int, ...]
Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A module as it was called: its class, fields, parameters' shapes and its input's channels.

    ``shapes`` are nested like the module's own parameters, as they are inside ``scan`` and
    ``vmap``: without the stacked axes.
    """

    kind: type
    fields: Mapping[str, Any]
    shapes: Mapping[str, Any]
    channels: int | None

    def shape(self, *path: str) -> Shape:
        node: Any = self.shapes
        for key in path:
            node = node[key]
        return tuple(node)


def see(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Seen:
    """What is known of a bound module at one of its calls."""
    inputs = [leaf for leaf in (*args, *kwargs.values()) if hasattr(leaf, "shape")]
    params = nn.unbox(module.variables.get("params", {}))
    return Seen(
        kind=type(module),
        fields=module_fields(module),
        shapes=jax.tree_util.tree_map(np.shape, params),
        channels=inputs[0].shape[-1] if inputs and inputs[0].ndim else None,
    )


def module_fields(module: nn.Module) -> dict[str, Any]:
    """The module's dataclass fields, less those that tie it to its parent."""
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.init and field.name not in ("parent", "name") and hasattr(module, field.name)
    }


def attached(module: nn.Module) -> Iterator[nn.Module]:
    """The submodules that are bound to ``module`` by its fields or its ``setup``."""
    for value in vars(module).values():
        for leaf in jax.tree_util.tree_leaves(value, is_leaf=lambda x: isinstance(x, nn.Module)):
            if isinstance(leaf, nn.Module) and leaf.scope is not None:
                yield leaf


def layer_fields(module: nn.Module, slim: Seen, full: Seen | None) -> Fields:
    """The width fields that a layer has to have for its parameters' shapes to be ``slim``.

    Empty for a module of another class, or one whose parameters do not exist yet.
    """
    for layer, parameter, fields in _LAYERS:
        if isinstance(module, layer) and (parameter is None or parameter in slim.shapes):
            return fields(slim, full)
    return {}


def _dense(slim: Seen, full: Seen | None) -> Fields:
    return {"features": slim.shape("kernel")[-1]}


def _dense_general(slim: Seen, full: Seen | None) -> Fields:
    if isinstance(slim.fields["features"], int):
        return {"features": slim.shape("kernel")[-1]}
    return {"features": slim.shape("kernel")[-len(slim.fields["features"]) :]}


def _conv(slim: Seen, full: Seen | None) -> Fields:
    kernel = slim.shape("kernel")
    fields = {"features": kernel[-1]}
    if slim.fields["feature_group_count"] > 1 and slim.channels is not None:
        fields["feature_group_count"] = slim.channels // kernel[-2]
    return fields


def _conv_local(slim: Seen, full: Seen | None) -> Fields:
    return {"features": slim.shape("kernel")[-1]}


def _conv_transpose(slim: Seen, full: Seen | None) -> Fields:
    return {"features": slim.shape("kernel")[-2 if slim.fields["transpose_kernel"] else -1]}


def _embed(slim: Seen, full: Seen | None) -> Fields:
    rows, features = slim.shape("embedding")[-2:]
    return {"num_embeddings": rows, "features": features}


def _einsum(slim: Seen, full: Seen | None) -> Fields:
    return {"shape": slim.shape("kernel")}


def _group_norm(slim: Seen, full: Seen | None) -> Fields:
    """Whole groups go: as many channels stay in each as there were."""
    groups = slim.fields["num_groups"]
    if groups is None or full is None or full.channels is None or slim.channels is None:
        return {}
    return {"num_groups": slim.channels * full.fields["num_groups"] // full.channels}


def _recurrent_cell(slim: Seen, full: Seen | None) -> Fields:
    hidden = next(name for name in slim.shapes if name.startswith("h"))
    return {"features": slim.shape(hidden, "kernel")[-1]}


def _conv_lstm(slim: Seen, full: Seen | None) -> Fields:
    return {"features": slim.shape("hh", "kernel")[-1] // 4}


def _attention(slim: Seen, full: Seen | None) -> Fields:
    """Heads and features; where the head dimension shrinks, what the softmax divides by."""
    heads, depth = slim.shape("query", "kernel")[-2:]
    now = slim.fields["qkv_features"] or slim.shape("query", "kernel")[-3]
    fields: Fields = {}
    if (heads, heads * depth) != (slim.fields["num_heads"], now):
        fields |= {"num_heads": heads, "qkv_features": heads * depth}
    if slim.fields["out_features"] is not None:
        fields["out_features"] = slim.shape("out", "kernel")[-1]
    if full is not None and full.shape("query", "kernel")[-1] != depth:
        fields[SOFTMAX_DEPTH] = full.shape("query", "kernel")[-1]
    return fields


# Layer, a parameter or submodule that tells its width, and its fields; subclasses come first.
_LAYERS: tuple[tuple[type[nn.Module], str | None, Callable[[Seen, Seen | None], Fields]], ...] = (
    (nn.Dense, "kernel", _dense),
    (nn.DenseGeneral, "kernel", _dense_general),
    (nn.ConvLocal, "kernel", _conv_local),
    (nn.Conv, "kernel", _conv),
    (nn.ConvTranspose, "kernel", _conv_transpose),
    (nn.Embed, "embedding", _embed),
    (nn.Einsum, "kernel", _einsum),
    (nn.GroupNorm, None, _group_norm),
    (nn.ConvLSTMCell, "hh", _conv_lstm),
    (nn.LSTMCell, "hi", _recurrent_cell),
    (nn.OptimizedLSTMCell, "hi", _recurrent_cell),
    (nn.GRUCell, "hn", _recurrent_cell),
    (nn.MGUCell, "hn", _recurrent_cell),
    (nn.SimpleCell, "h", _recurrent_cell),
    (nn.MultiHeadDotProductAttention, "query", _attention),
)


def set_fields(module: nn.Module, overrides: tuple[Override, ...]) -> None:
    """Gives a bound module other widths, before the method that reads them runs."""
    leaves: dict[str, dict[Path, Any]] = {}
    for override in overrides:
        leaves.setdefault(override.field[0], {})[override.field[1:]] = override.value
    for name, below in leaves.items():
        if name == SOFTMAX_DEPTH:
            name, value = "attention_fn", scaled_attention(module.attention_fn, below[()])
        else:
            value = replaced(getattr(module, name), below)
        # Flax freezes modules against user code; their fields are still ordinary attributes.
        object.__setattr__(module, name, value)
