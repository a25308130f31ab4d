"""Weights that others trained with PyTorch, brought into the Flax models."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oto_jax.models.resnet import CifarResNet, ResNet20, ResNet32, ResNet44, ResNet56

CIFAR_RESNETS = {3: ResNet20, 5: ResNet32, 7: ResNet44, 9: ResNet56}


class TorchCheckpointError(ValueError):
    """A file is not the state dictionary of a network that can be read here."""


def load_cifar_resnet(path: str | Path, **fields: Any) -> tuple[CifarResNet, dict[str, Any]]:
    """A CIFAR ResNet-20, 32, 44 or 56 and its weights, from a PyTorch state dictionary.

    Args:
      path: an ``.npz`` of the state dictionary's arrays under their PyTorch names, as of the
        networks of github.com/akamaster/pytorch_resnet_cifar10. These expect images in [0, 1],
        normalised with ImageNet's mean and standard deviation.
      **fields: fields of `CifarResNet` to set, such as ``dtype``.

    Returns:
      The model and its variables (NumPy arrays, float32).

    Raises:
      FileNotFoundError: if there is no such file.
      TorchCheckpointError: if it is damaged or of another network.
    """
    state = _read_arrays(Path(path))
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    if blocks not in CIFAR_RESNETS:
        raise TorchCheckpointError(
            f"{path} has {blocks} blocks in its first stage; a CIFAR ResNet-20, 32, 44 or 56 has"
            f" {sorted(CIFAR_RESNETS)}"
        )
    return CIFAR_RESNETS[blocks](**fields), cifar_resnet_variables(state)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:  # np.load would leave a damaged file open.
        try:
            with np.load(file) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise TorchCheckpointError(f"{path} cannot be read as .npz: {error}") from error


def cifar_resnet_variables(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables of a `CifarResNet` from a PyTorch state dictionary.

    Args:
      state: arrays under their PyTorch names; kernels ``(out, in, height, width)``.

    Returns:
      Flax variables; kernels ``(height, width, in, out)``.

    Raises:
      TorchCheckpointError: if an array's name or rank is not one of a CIFAR ResNet's.
    """
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        module, _, field = name.rpartition(".")
        collection, leaf = _flax_leaf(name, field, array)
        node = variables[collection]
        for key in _flax_module(name, module):
            node = node.setdefault(key, {})
        node[leaf] = _flax_array(array)
    return variables


def _flax_module(name: str, module: str) -> tuple[str, ...]:
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)(\d)", module):
        stage, block, kind, number = match.groups()
        return (f"stage{stage}_block{int(block) + 1}", f"{kind}{number}")
    top = {"conv1": "stem_conv", "bn1": "stem_bn", "linear": "head"}
    if module not in top:
        raise TorchCheckpointError(f"no layer of a CIFAR ResNet is called {name!r}")
    return (top[module],)


def _flax_leaf(name: str, field: str, array: np.ndarray) -> tuple[str, str]:
    if field in ("running_mean", "running_var"):
        return "batch_stats", field.removeprefix("running_")
    if field == "bias":
        return "params", "bias"
    if field == "weight" and array.ndim in (1, 2, 4):
        return "params", "scale" if array.ndim == 1 else "kernel"
    raise TorchCheckpointError(f"{name!r} of shape {array.shape} is no CIFAR ResNet's parameter")


def _flax_array(array: np.ndarray) -> np.ndarray:
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, (0,))
    return np.ascontiguousarray(array.transpose(axes))
