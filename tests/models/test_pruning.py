"""Every network prunes to the same class with other widths, and computes the same."""

import jax
import numpy as np
import pytest

import oto_jax
from oto_jax.models.resnet import CifarResNet, ResNet
from oto_jax.models.vgg import VGG

MODELS = {
    "vgg_bn": VGG(widths=((4, 6), (8,)), hidden=(7, 9), batch_norm=True),
    "basic": ResNet(stem=None, streams=(6, 8), inner=(((4,), (5,)), ((7,),)), num_classes=10),
    "bottleneck": ResNet(
        stem=6, streams=(8, 12), inner=(((4, 5), (3, 6)), ((5, 7),)), small_images=True
    ),
    "zero padded": CifarResNet(stem=6, pads=((3, 5), (4, 4)), inner=((4,), (6,), (8, 8))),
}


@pytest.mark.parametrize("name", MODELS)
def test_pruned_networks_are_the_same_class_and_compute_the_same(name):
    model = MODELS[name]
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    zigs = oto_jax.find_zigs(model, variables, images, train=False)
    dead = np.random.default_rng(0).random(zigs.num_groups) < 0.4
    params = jax.tree.map(
        lambda param, groups: np.where((groups >= 0) & dead[groups], 0, param),
        variables["params"],
        zigs.masks,
    )
    masked = {**variables, "params": params}
    slim = oto_jax.prune(model, masked, zigs)
    assert type(slim.model) is type(model)
    assert slim.plan.form == "configuration"
    certificate = oto_jax.certify((model, masked), slim, images, train=False)
    assert certificate.relative < 1e-5
    assert certificate.slim.macs < certificate.full.macs


def test_what_pruning_leaves_of_a_zero_padded_stream_stays_in_place():
    """Channels die at the front of the first pad alone, so only `before` shrinks."""
    model = CifarResNet(stem=6, pads=((3, 5), (4, 4)), inner=((4,), (6,), (8,)))
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    zigs = oto_jax.find_zigs(model, variables, images, train=False)
    new = next(space for space in zigs.spaces if space.size == 3)
    dead = np.isin(np.arange(zigs.num_groups), list(new.groups)[:2])
    params = jax.tree.map(
        lambda param, groups: np.where((groups >= 0) & dead[groups], 0, param),
        variables["params"],
        zigs.masks,
    )
    slim = oto_jax.prune(model, {**variables, "params": params}, zigs)
    assert slim.model == model.clone(pads=((1, 5), (4, 4)))
