"""The CIFAR ResNets of He et al., section 4.2, in PyTorch, so that Torch-Pruning can cut them.

Runs in the peers' environment. The names are those of the published state dictionaries
(github.com/akamaster/pytorch_resnet_cifar10).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch_pruning.pruner.function import BasePruningFunc

BLOCKS = {20: 3, 32: 5, 44: 7, 56: 9}


class ZeroPadding(nn.Module):
    """Option A: every other pixel, the channels put between new ones that are zero.

    Written as a convolution with a fixed matrix of zeros and ones: what Torch-Pruning follows, and
    can cut on either side. It costs no multiply-accumulate and has no parameter.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        matrix = torch.zeros(2 * channels, channels, 1, 1)
        matrix[channels // 2 + torch.arange(channels), torch.arange(channels)] = 1
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.matrix, stride=2)


class ZeroPaddingPruner(BasePruningFunc):
    """Tells Torch-Pruning how to cut a `ZeroPadding`."""

    def prune_out_channels(self, layer: ZeroPadding, idxs: Sequence[int]) -> nn.Module:
        layer.matrix = _without(layer.matrix, idxs, 0)
        return layer

    def prune_in_channels(self, layer: ZeroPadding, idxs: Sequence[int]) -> nn.Module:
        layer.matrix = _without(layer.matrix, idxs, 1)
        return layer

    def get_out_channels(self, layer: ZeroPadding) -> int:
        return layer.matrix.shape[0]

    def get_in_channels(self, layer: ZeroPadding) -> int:
        return layer.matrix.shape[1]


def _without(matrix: torch.Tensor, idxs: Sequence[int], axis: int) -> torch.Tensor:
    stays = sorted(set(range(matrix.shape[axis])) - set(idxs))
    return matrix.index_select(axis, torch.tensor(stays, device=matrix.device))


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        grows = width != channels
        self.conv1 = nn.Conv2d(channels, width, 3, 2 if grows else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = ZeroPadding(channels) if grows else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet-20, 32, 44 or 56 for 32 x 32 images."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            blocks = []
            for _ in range(BLOCKS[depth]):
                blocks.append(Block(channels, width))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def load(depth: int, path: Path) -> CifarResNet:
    """The published network, from the ``.npz`` of its state dictionary."""
    with np.load(path) as arrays:
        state = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    model = CifarResNet(depth)
    model.load_state_dict(state)
    return model


def count_macs(model: nn.Module) -> int:
    """Multiply-accumulates of convolutions and dense layers for one image."""
    counted: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        positions = output[0].numel() // output.shape[1]
        counted.append(positions * layer.weight.numel())

    hooks = [layer.register_forward_hook(count) for layer in _layers(model)]
    was_training = model.training
    try:
        with torch.no_grad():
            where = next(model.parameters()).device
            model.eval()(torch.zeros(1, 3, 32, 32, device=where))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return sum(counted)


def count_parameters(model: nn.Module) -> int:
    """Trained entries."""
    return sum(parameter.numel() for parameter in model.parameters())


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
