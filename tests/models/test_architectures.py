"""The networks are the published ones: parameter counts, output shapes, widths as fields."""

import functools

import jax
import jax.numpy as jnp
import pytest

import oto_jax
from oto_jax.models.resnet import (
    CifarResNet,
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet34,
    ResNet44,
    ResNet50,
    ResNet50_CIFAR,
    ResNet56,
    ResNet101,
    ResNet152,
    zero_padded_shortcut,
)
from oto_jax.models.vgg import VGG16, VGG16_BN

# torchvision's documentation for ImageNet; He et al. table 6 in millions, and the repositories
# pytorch_resnet_cifar10, pytorch-cifar and pytorch-vgg-cifar10 to the unit, for CIFAR.
PARAMETERS = [
    (ResNet18, 224, 11_689_512),
    (ResNet34, 224, 21_797_672),
    (ResNet50, 224, 25_557_032),
    (ResNet101, 224, 44_549_160),
    (ResNet152, 224, 60_192_808),
    (ResNet50_CIFAR, 32, 23_520_842),
    (ResNet20, 32, 269_722),
    (ResNet32, 32, 464_154),
    (ResNet44, 32, 658_586),
    (ResNet56, 32, 853_018),
    (VGG16, 32, 15_245_130),
    (VGG16_BN, 32, 15_253_578),
]
# In millions, as printed, of one image. ImageNet: "GFLOPS" of torchvision's weights, which count
# multiply-accumulates. ResNet-56: the repository of HRank (Lin et al., CVPR 2020). VGG16, there
# with one hidden dense layer: table 1 of Li et al., arXiv:1608.08710.
MACS = [
    (ResNet18, 224, "1814"),
    (ResNet34, 224, "3664"),
    (ResNet50, 224, "4089"),
    (ResNet101, 224, "7801"),
    (ResNet152, 224, "11514"),
    (ResNet56, 32, "125.49"),
    (functools.partial(VGG16, hidden=(512,)), 32, "313"),
    (functools.partial(VGG16_BN, hidden=(512,)), 32, "313"),
]


def shapes(model, size):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return images, jax.eval_shape(model.init, jax.random.key(0), images)


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("make", "size", "parameters"), PARAMETERS)
def test_parameter_counts_are_the_published_ones(make, size, parameters):
    _, variables = shapes(make(), size)
    assert count(variables["params"]) == parameters


def macs(model, size):
    """Multiply-accumulates for one image, without weights."""
    images, variables = shapes(model, size)
    return oto_jax.count_macs(model.apply, variables, images) // len(images)


@pytest.mark.parametrize(("make", "size", "millions"), MACS)
def test_macs_are_the_published_ones(make, size, millions):
    digits = len(millions.partition(".")[2])
    assert f"{macs(make(), size) / 1e6:.{digits}f}" == millions


def test_macs_of_the_cifar_resnets_grow_by_those_of_their_blocks():
    """Twelve more 3 x 3 convolutions each time; those of 16, 32 and 64 channels cost the same."""
    convolution = 32 * 32 * 9 * 16 * 16
    found = [macs(make(), 32) for make in (ResNet20, ResNet32, ResNet44, ResNet56)]
    assert [larger - found[0] for larger in found] == [n * 12 * convolution for n in range(4)]


def test_the_stages_of_resnet50_cost_in_proportion_to_the_image():
    """32 pixels meet them at 32, not at 224 / 4 = 56."""
    imagenet = macs(ResNet50(), 224) - 112 * 112 * 49 * 3 * 64 - 2048 * 1000
    cifar = macs(ResNet50_CIFAR(), 32) - 32 * 32 * 9 * 3 * 64 - 2048 * 10
    assert cifar * 56**2 == imagenet * 32**2


@pytest.mark.parametrize("make", [VGG16, VGG16_BN, ResNet50_CIFAR, ResNet18, ResNet20])
def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_logits(make):
    model = make(dtype=jnp.bfloat16, num_classes=7)
    images, variables = shapes(model, 32)
    jaxpr = jax.make_jaxpr(model.apply)(variables, images)
    convolutions = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == "conv_general_dilated"]
    assert convolutions
    assert {e.invars[0].aval.dtype for e in convolutions} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits = jax.eval_shape(model.apply, variables, images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from equations(inner.jaxpr)


def test_every_width_of_vgg_is_a_field():
    widths = ((3, 5), (7,), (6, 4, 2))
    _, variables = shapes(VGG16_BN(widths=widths, hidden=(9,)), 32)
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v}
    assert kernels["conv1_1"] == (3, 3, 3, 3)
    assert kernels["conv1_2"] == (3, 3, 3, 5)
    assert kernels["conv2_1"] == (3, 3, 5, 7)
    assert kernels["conv3_3"] == (3, 3, 4, 2)
    assert kernels["dense1"] == (2, 9)
    assert kernels["head"] == (9, 10)


def test_widths_that_agree_by_chance_do_not_change_the_structure():
    inner = (((2, 3),), ((4, 5),), ((6, 7),), ((8, 9),))
    model = ResNet50_CIFAR(stem=11, streams=(11, 11, 11, 11), inner=inner)
    _, variables = shapes(model, 32)
    for stage in (1, 2, 3, 4):
        kernel = variables["params"][f"stage{stage}_shortcut_conv"]["kernel"]
        assert kernel.shape == (1, 1, 11, 11)


def test_the_stream_of_a_cifar_resnet_grows_by_its_pads():
    model = CifarResNet(stem=5, pads=((0, 2), (3, 1)), inner=((4,), (6, 7), (8,)))
    assert model.streams == (5, 7, 11)
    _, variables = shapes(model, 32)
    assert variables["params"]["stage2_block1"]["conv2"]["kernel"].shape == (3, 3, 6, 7)
    assert variables["params"]["head"]["kernel"].shape == (11, 10)


def test_the_zero_padded_shortcut_keeps_the_stream_between_zeros():
    x = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3) + 1
    y = zero_padded_shortcut(x, 2, 1)
    assert y.shape == (2, 2, 2, 6)
    assert (y[..., 2:5] == x[:, ::2, ::2]).all()
    assert not y[..., :2].any()
    assert not y[..., 5:].any()


@pytest.mark.parametrize("make", [VGG16, VGG16_BN])
def test_dropout_acts_only_while_training(make):
    model = make(widths=((4,),), hidden=(16,))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = model.init(jax.random.key(0), images)

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    assert (train(1) != train(2)).any()
    assert (model.apply(variables, images) == model.apply(variables, images)).all()


def test_running_statistics_move_only_while_training():
    model = ResNet20()
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = model.init(jax.random.key(0), images)
    _, still = model.apply(variables, images, mutable=["batch_stats"])
    _, moved = model.apply(variables, images, train=True, mutable=["batch_stats"])
    before = variables["batch_stats"]["stem_bn"]["mean"]
    assert (still["batch_stats"]["stem_bn"]["mean"] == before).all()
    assert (moved["batch_stats"]["stem_bn"]["mean"] != before).any()
