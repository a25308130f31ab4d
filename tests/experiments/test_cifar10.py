"""CIFAR-10 is read whole and right from each of its forms, and what is wrong is named."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments.data import cifar10
from experiments.errors import DamagedDataError, MissingDataError


@pytest.fixture(scope="module")
def test_set(shared_data):
    return cifar10.load("test", shared_data / "cifar10")


def test_the_strips_are_cifar10_bit_by_bit(shared_data, test_set):
    """`load` compares the SHA-256 of images and labels with the published arrays'."""
    train = cifar10.load("train", shared_data / "cifar10")
    assert (train.images.shape, train.images.dtype) == ((50_000, 32, 32, 3), np.uint8)
    assert (test_set.images.shape, test_set.labels.dtype) == ((10_000, 32, 32, 3), np.int32)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test_set.labels).tolist() == [1000] * 10
    assert len(train.first(100)) == 100


def pickled(images, labels):
    """A batch as Python 2 and NumPy 1 pickled the official ones: byte strings, old module names."""
    data = images.transpose(0, 3, 1, 2).tobytes()
    rows = struct.pack("<i", len(images))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01J" + rows + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def write_archive(path, name, content):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def test_the_official_archive_gives_the_same_arrays(tmp_path, test_set):
    batch = pickled(test_set.images, test_set.labels)
    folder = tmp_path / "unpacked" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").write_bytes(batch)
    write_archive(tmp_path / "cifar-10-python.tar.gz", "test_batch", batch)
    for place in (tmp_path, folder.parent, folder):
        found = cifar10.load("test", place)
        np.testing.assert_array_equal(found.images, test_set.images)
        np.testing.assert_array_equal(found.labels, test_set.labels)


def test_a_changed_pixel_is_noticed(tmp_path, test_set):
    images = test_set.images.copy()
    images[1234, 5, 6, 0] ^= 1
    write_archive(
        tmp_path / "cifar-10-python.tar.gz", "test_batch", pickled(images, test_set.labels)
    )
    with pytest.raises(DamagedDataError, match=r"test images .* are not CIFAR-10's"):
        cifar10.load("test", tmp_path)


def test_a_cut_archive_is_noticed(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_archive(path, "test_batch", pickled(np.zeros((10, 32, 32, 3), np.uint8), [0] * 10))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedDataError, match="official archive"):
        cifar10.load("test", tmp_path)


class RunsCode:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_an_archive_that_would_run_code_is_refused(tmp_path, capsys):
    write_archive(tmp_path / "cifar-10-python.tar.gz", "test_batch", pickle.dumps(RunsCode()))
    with pytest.raises(DamagedDataError, match="it would run"):
        cifar10.load("test", tmp_path)
    assert capsys.readouterr().out == ""


def test_missing_strips_are_counted(tmp_path):
    np.save(tmp_path / "train_labels.npy", np.zeros(50_000, np.uint8))
    with pytest.raises(DamagedDataError, match="holds 0 train images"):
        cifar10.load("train", tmp_path)


def test_a_damaged_strip_is_named(tmp_path):
    np.save(tmp_path / "train_labels.npy", np.zeros(50_000, np.uint8))
    (tmp_path / "train_000.webp").write_bytes(b"RIFF no picture")
    with pytest.raises(DamagedDataError, match=r"train_000\.webp"):
        cifar10.load("train", tmp_path)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'"])
def test_damaged_labels_are_named(tmp_path, content):
    (tmp_path / "train_labels.npy").write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"train_labels\.npy"):
        cifar10.load("train", tmp_path)


def test_missing_data_says_which_commands_prepare_it(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        cifar10.load("train", tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "cifar-10-python.tar.gz" in message
    assert "download_and_prepare()" in message


def test_what_tfds_prepared_is_read_without_tensorflow(tmp_path):
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)

    class Cifar10(tfds.core.GeneratorBasedBuilder):
        name = "cifar10"
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, downloads):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, picture in enumerate(pictures):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "PNG")
                yield number, {"image": io.BytesIO(file.getvalue()), "label": number % 10}

    Cifar10(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    found = cifar10.load("train", tmp_path)
    assert (found.images.shape, found.labels.dtype) == ((20, 32, 32, 3), np.int32)
    order = [int(np.flatnonzero((pictures == image).all((1, 2, 3)))[0]) for image in found.images]
    assert sorted(order) == list(range(20))
    assert found.labels.tolist() == [number % 10 for number in order]
