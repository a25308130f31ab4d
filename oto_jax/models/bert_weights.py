"""BERT's weights under the names that PyTorch checkpoints give them, to and from Flax.

Pure renaming and reshaping of NumPy arrays, no files. PyTorch keeps a dense kernel as (out, in)
and merges heads with their dimensions; here kernels are (in, heads, dimensions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from oto_jax.models.bert_config import BertConfig, BertConfigError, LayerWidths

Tensors = Mapping[str, np.ndarray]
Path = tuple[str, ...]
HEAD = ("qa_outputs.weight", "qa_outputs.bias")
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


class BertWeightsError(ValueError):
    """Weights that do not belong to the BERT they were given for."""


class MissingTensorsError(BertWeightsError):
    """A checkpoint lacks tensors that the model needs."""


class TensorShapeError(BertWeightsError):
    """A tensor of a checkpoint has another shape than the configuration says."""


class UnevenWidthsError(BertWeightsError):
    """Pruned widths that the standard names and ``config.json`` cannot express."""


@dataclasses.dataclass(frozen=True)
class LoadedBert:
    """Parameters read from a checkpoint, and what did not come from it or was left.

    Attributes:
      params: parameters of `BertForQuestionAnswering`, float32 NumPy arrays.
      new: tensors that the checkpoint lacks and that were drawn at random: the head, or none.
      unused: tensors of the checkpoint that this model has no place for (pooler, other heads).
    """

    params: dict[str, Any]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def config_from_json(values: Mapping[str, Any]) -> BertConfig:
    """The configuration that a checkpoint's ``config.json`` describes.

    Args:
      values: the content of the file, in Hugging Face's words.

    Raises:
      BertConfigError: if it is of another architecture, or lacks a number.

    Example:
      >>> values = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
      ...           "intermediate_size": 512, "vocab_size": 30522}
      >>> config_from_json(values).layers
      (LayerWidths(heads=2, qk_dim=64, v_dim=64, ffn=512),
       LayerWidths(heads=2, qk_dim=64, v_dim=64, ffn=512))
    """
    _check_architecture(values)
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    missing = [name for name in (*needed, "vocab_size") if not isinstance(values.get(name), int)]
    if missing:
        raise BertConfigError(f"config.json lacks whole numbers for: {', '.join(missing)}")
    return BertConfig.uniform(
        *(values[name] for name in needed),
        vocabulary=values["vocab_size"],
        positions=values.get("max_position_embeddings", 512),
        token_types=values.get("type_vocab_size", 2),
        activation=values.get("hidden_act", "gelu"),
        dropout=values.get("hidden_dropout_prob", 0.1),
        attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
        norm_epsilon=values.get("layer_norm_eps", 1e-12),
        init_stddev=values.get("initializer_range", 0.02),
    )


def _check_architecture(values: Mapping[str, Any]) -> None:
    kind = values.get("model_type", "bert")
    if kind != "bert":
        raise BertConfigError(f"the checkpoint's model_type is {kind!r}; only 'bert' can be loaded")
    positions = values.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise BertConfigError(f"position_embedding_type is {positions!r}, must be 'absolute'")


def config_to_json(config: BertConfig) -> dict[str, Any]:
    """What goes into ``config.json`` for a BERT whose widths are uniform.

    Raises:
      UnevenWidthsError: if they are not; such a model is saved with `oto_jax.save`.
    """
    widths = _uniform_widths(config)
    return {
        "architectures": ["BertForQuestionAnswering"],
        "model_type": "bert",
        "num_hidden_layers": len(config.layers),
        "hidden_size": config.hidden,
        "num_attention_heads": widths.heads,
        "intermediate_size": widths.ffn,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "hidden_act": config.activation,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": config.init_stddev,
    }


def _uniform_widths(config: BertConfig) -> LayerWidths:
    if len(set(config.layers)) != 1:
        raise UnevenWidthsError(
            "the layers have different widths, which config.json cannot say; use oto_jax.save"
        )
    widths = config.layers[0]
    even = widths.qk_dim == widths.v_dim and widths.heads * widths.v_dim == config.hidden
    if not even or not np.isclose(config.softmax_scale, widths.qk_dim**-0.5, rtol=1e-9):
        raise UnevenWidthsError(
            f"{widths.heads} heads of {widths.qk_dim} and {widths.v_dim} dimensions in a hidden"
            f" width of {config.hidden}: config.json knows only heads * dimensions = hidden;"
            " use oto_jax.save"
        )
    return widths


def params_from_tensors(tensors: Tensors, config: BertConfig, head_seed: int) -> LoadedBert:
    """The Flax parameters from a checkpoint's tensors.

    Args:
      tensors: name to array, of ``BertModel``, ``BertForQuestionAnswering`` or another head's
        model; with or without a prefix such as ``bert.``, with old names (gamma, beta) too.
      config: the checkpoint's configuration.
      head_seed: draws the question-answering head where the checkpoint has none.

    Raises:
      MissingTensorsError: if the encoder is incomplete; the message names every tensor.
      TensorShapeError: if a tensor does not have the shape of the configuration.
    """
    places = list(_places(config))
    found = {place.name: _find(tensors, place.name) for place in places}
    _check_present([name for name, key in found.items() if key is None])
    params: dict[str, Any] = {}
    for place in places:
        key = found[place.name]
        array = _new_head(place, config, head_seed) if key is None else tensors[key]
        _insert(params, place.path, _to_flax(array, place))
    used = set(found.values())
    return LoadedBert(
        params=params,
        new=tuple(name for name, key in found.items() if key is None),
        unused=tuple(sorted(set(tensors) - used)),
    )


def tensors_from_params(params: Mapping[str, Any], config: BertConfig) -> dict[str, np.ndarray]:
    """The inverse of `params_from_tensors`, under ``BertForQuestionAnswering``'s names.

    Raises:
      UnevenWidthsError: if the widths are not uniform.
    """
    _uniform_widths(config)
    return {
        (place.name if place.name in HEAD else f"bert.{place.name}"): _to_torch(
            _lookup(params, place.path), place
        )
        for place in _places(config)
    }


@dataclasses.dataclass(frozen=True)
class _Place:
    """One tensor: its PyTorch name, its Flax path and shape, and whether PyTorch transposes it."""

    name: str
    path: Path
    shape: tuple[int, ...]
    inputs: int = 0  # How many leading axes of the Flax kernel are inputs; 0: no kernel.

    @property
    def torch_shape(self) -> tuple[int, ...]:
        if not self.inputs:
            return self.shape if self.path[-1] == "embedding" else (int(np.prod(self.shape)),)
        split = (self.shape[: self.inputs], self.shape[self.inputs :])
        return int(np.prod(split[1])), int(np.prod(split[0]))


def _places(config: BertConfig) -> Iterator[_Place]:
    rows = {
        "word": config.vocabulary,
        "position": config.positions,
        "token_type": config.token_types,
    }
    root = ("encoder", "embeddings")
    for kind, count in rows.items():
        path = (*root, kind, "embedding")
        yield _Place(f"embeddings.{kind}_embeddings.weight", path, (count, config.hidden))
    yield from _norm("embeddings.LayerNorm", (*root, "norm"), config.hidden)
    for number, widths in enumerate(config.layers):
        yield from _layer(number, widths, config.hidden)
    yield from _dense("qa_outputs", ("qa_outputs",), (config.hidden,), (2,))


def _layer(number: int, widths: LayerWidths, hidden: int) -> Iterator[_Place]:
    torch, flax = f"encoder.layer.{number}", ("encoder", f"layer_{number}")
    dims = {"query": widths.qk_dim, "key": widths.qk_dim, "value": widths.v_dim}
    for part, dim in dims.items():
        path = (*flax, "attention", part)
        yield from _dense(f"{torch}.attention.self.{part}", path, (hidden,), (widths.heads, dim))
    merged = (widths.heads, widths.v_dim)
    output = (*flax, "attention", "output")
    yield from _dense(f"{torch}.attention.output.dense", output, merged, (hidden,))
    yield from _norm(f"{torch}.attention.output.LayerNorm", (*flax, "attention_norm"), hidden)
    inner = (*flax, "ffn", "intermediate")
    yield from _dense(f"{torch}.intermediate.dense", inner, (hidden,), (widths.ffn,))
    yield from _dense(f"{torch}.output.dense", (*flax, "ffn", "output"), (widths.ffn,), (hidden,))
    yield from _norm(f"{torch}.output.LayerNorm", (*flax, "ffn_norm"), hidden)


def _dense(
    name: str, path: Path, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> Iterator[_Place]:
    yield _Place(f"{name}.weight", (*path, "kernel"), inputs + outputs, len(inputs))
    yield _Place(f"{name}.bias", (*path, "bias"), outputs)


def _norm(name: str, path: Path, hidden: int) -> Iterator[_Place]:
    yield _Place(f"{name}.weight", (*path, "scale"), (hidden,))
    yield _Place(f"{name}.bias", (*path, "bias"), (hidden,))


def _find(tensors: Tensors, name: str) -> str | None:
    """The checkpoint's key of a tensor, whatever prefix and generation its names are of."""
    spellings = [name]
    spellings += [name.replace(new, old) for new, old in _OLD_NAMES.items() if name.endswith(new)]
    for key in (f"{prefix}{s}" for prefix in _prefixes(tensors) for s in spellings):
        if key in tensors:
            return key
    return None


def _prefixes(tensors: Tensors) -> tuple[str, ...]:
    """What comes before the encoder's names, and before the head's (``module.bert.``: both)."""
    anchor = "embeddings.word_embeddings.weight"
    found = next((key.removesuffix(anchor) for key in tensors if key.endswith(anchor)), "")
    return found, found.removesuffix("bert."), ""


def _check_present(missing: list[str]) -> None:
    encoder = [name for name in missing if name not in HEAD]
    if encoder or len(missing) == 1:
        raise MissingTensorsError(
            f"the checkpoint lacks {len(missing)} tensors: {', '.join(missing)};"
            " fetch it again, or check that config.json belongs to it"
        )


def _new_head(place: _Place, config: BertConfig, seed: int) -> np.ndarray:
    if not place.inputs:
        return np.zeros(place.torch_shape, np.float32)
    draw = np.random.default_rng(seed).normal(0.0, config.init_stddev, place.torch_shape)
    return draw.astype(np.float32)


def _to_flax(array: np.ndarray, place: _Place) -> np.ndarray:
    if array.shape != place.torch_shape:
        raise TensorShapeError(
            f"tensor {place.name!r} has shape {array.shape}, the configuration says"
            f" {place.torch_shape}; check that config.json belongs to the weights"
        )
    matrix = array.T if place.inputs else array
    return np.ascontiguousarray(matrix, np.float32).reshape(place.shape)


def _to_torch(array: Any, place: _Place) -> np.ndarray:
    shape = place.torch_shape
    matrix = np.asarray(array).reshape(shape[::-1] if place.inputs else shape)
    return np.ascontiguousarray(matrix.T if place.inputs else matrix)


def _insert(tree: dict[str, Any], path: Path, array: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = array


def _lookup(tree: Mapping[str, Any], path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree
