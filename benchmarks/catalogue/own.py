"""The models of this repository."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.catalogue.architecture import Architecture, Subject, images, linen, tokens
from benchmarks.catalogue.decoder import Decoder
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig
from oto_jax.models.resnet import ResNet18, ResNet20, ResNet50, ResNet50_CIFAR
from oto_jax.models.vgg import VGG16, VGG16_BN


def _convolutional(make: Any, size: int) -> Any:
    return lambda: linen(make(dtype=jnp.float64), images(size, batch=1))


def _bert() -> Subject:
    config = BertConfig.uniform(depth=2, hidden=32, heads=4, ffn=48, vocabulary=99)
    return linen(BertForQuestionAnswering(config), tokens())


def _decoder() -> Subject:
    decoder = Decoder(layers=2, width=32, heads=4, key_value_heads=2, hidden=48, vocabulary=99)
    return Subject(decoder, decoder.parameters(np.float64), (tokens(),))


ARCHITECTURES = [
    Architecture("VGG16", "oto_jax", _convolutional(VGG16, 32)),
    Architecture("VGG16-BN", "oto_jax", _convolutional(VGG16_BN, 32)),
    Architecture("ResNet-18", "oto_jax", _convolutional(ResNet18, 32)),
    Architecture("ResNet-50", "oto_jax", _convolutional(ResNet50, 64)),
    Architecture("ResNet-50, CIFAR", "oto_jax", _convolutional(ResNet50_CIFAR, 32)),
    Architecture("ResNet-20, CIFAR", "oto_jax", _convolutional(ResNet20, 32)),
    Architecture("BERT, question answering", "oto_jax", _bert),
    Architecture(
        "BERT, question answering, residual width", "oto_jax", _bert, {"narrow_only": True}
    ),
    Architecture("decoder of LLaMA's kind", "oto_jax", _decoder),
]
