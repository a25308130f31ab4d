"""The networks of the comparisons in PyTorch; runs in the peers' environment.

VGG16-BN is written out here; ResNet-50 and BERT-base are Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    ResNetConfig,
    ResNetForImageClassification,
)

VGG16_WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)


def vgg16_bn() -> nn.Module:
    """VGG16-BN for 32 x 32 images: global average pooling, dense 512-512-10."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in VGG16_WIDTHS:
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        layers += [nn.Dropout(), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def resnet50() -> nn.Module:
    """ResNet-50, ImageNet form."""
    return ResNetForImageClassification(ResNetConfig(num_labels=1000, return_dict=False))


def bert_base() -> nn.Module:
    """BERT-base for question answering, its attention written out."""
    return BertForQuestionAnswering(BertConfig(attn_implementation="eager", return_dict=False))


SUBJECTS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "VGG16-BN": (vgg16_bn, lambda: torch.zeros(1, 3, 32, 32)),
    "ResNet-50": (resnet50, lambda: torch.zeros(1, 3, 224, 224)),
    "BERT-base": (bert_base, lambda: torch.ones(1, 384, dtype=torch.long)),
}


def subject(name: str) -> tuple[Any, torch.Tensor]:
    """A network, ready to be traced, and an input."""
    torch.manual_seed(0)
    make, inputs = SUBJECTS[name]
    return make().eval(), inputs()
