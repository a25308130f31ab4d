"""PyTorch's CIFAR ResNets arrive whole: names, shapes, and every bad file by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oto_jax.models.checkpoints import TorchCheckpointError, load_cifar_resnet
from oto_jax.models.resnet import ResNet20, ResNet32, ResNet44, ResNet56

FILES = [
    ("resnet20-12fca82f.npz", ResNet20),
    ("resnet32-d509ac18.npz", ResNet32),
    ("resnet44-014dd654.npz", ResNet44),
    ("resnet56-4bfd9763.npz", ResNet56),
]


@pytest.mark.parametrize(("file", "make"), FILES)
def test_a_checkpoint_has_the_structure_of_its_model(shared_data, file, make):
    model, variables = load_cifar_resnet(shared_data / "resnet_cifar10" / file)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    expected = jax.eval_shape(make().init, jax.random.key(0), images)
    assert model == make()
    found = jax.tree.map(lambda a: (a.shape, a.dtype), variables)
    assert found == jax.tree.map(lambda a: (a.shape, a.dtype), expected)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_cifar_resnet(tmp_path / "nowhere.npz")


def test_a_damaged_file_is_named(shared_data, tmp_path):
    whole = (shared_data / "resnet_cifar10" / FILES[0][0]).read_bytes()
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TorchCheckpointError, match="damaged"):
        load_cifar_resnet(damaged)


def test_another_networks_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", **{"layer1.0.conv1.weight": np.zeros((4, 4, 3, 3))})
    with pytest.raises(TorchCheckpointError, match="1 blocks"):
        load_cifar_resnet(tmp_path / "other.npz")


def test_an_unknown_layer_is_named(tmp_path):
    blocks = {f"layer1.{i}.conv1.weight": np.zeros((4, 4, 3, 3)) for i in range(3)}
    np.savez(tmp_path / "other.npz", **blocks, **{"fc.weight": np.zeros((10, 4))})
    with pytest.raises(TorchCheckpointError, match=r"fc\.weight"):
        load_cifar_resnet(tmp_path / "other.npz")
