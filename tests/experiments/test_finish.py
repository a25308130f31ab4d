"""How a trained network and its slim one are compared."""

import jax.numpy as jnp
import pytest

from experiments.training.finish import in_single_precision
from oto_jax.models.resnet import ResNet20
from oto_jax.models.vgg import VGG16_BN


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.float16])
def test_half_precision_is_compared_in_float32(dtype):
    model = VGG16_BN(dtype=dtype)
    assert in_single_precision(model) == VGG16_BN(dtype=jnp.float32)


@pytest.mark.parametrize("model", [ResNet20(), VGG16_BN(dtype="float64")], ids=["32", "64"])
def test_any_other_precision_stays(model):
    assert in_single_precision(model) is model
