"""CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images of 32 x 32, whole in memory.

Three forms are read, recognised by what lies in the folder:

- the official archive, ``cifar-10-python.tar.gz`` or its folder ``cifar-10-batches-py``;
- what TensorFlow Datasets prepared, ``cifar10/3.0.2`` in ArrayRecord;
- strips, lossless WebP pictures ``train_000.webp`` ... of 500 images each, and ``*_labels.npy``.

All three give the same arrays in the same order but for TFDS, which shuffles while it prepares.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.data.damage import named_damage
from experiments.data.folders import data_folder, tfds_folder
from experiments.errors import DamagedDataError, MissingDataError

Split = Literal["train", "test"]
SIZES: Mapping[Split, int] = {"train": 50_000, "test": 10_000}

# SHA-256 of the images (uint8, NHWC, official order) and of the labels (uint8).
SHA256: Mapping[Split, tuple[str, str]] = {
    "train": (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    ),
    "test": (
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ),
}

HOW_TO_PREPARE = """CIFAR-10 was not found in {places}. Any of these prepares it:
  curl -LO https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz   (163 MiB), then
    --data-dir FOLDER_OF_THE_ARCHIVE
  pip install tensorflow tensorflow-datasets, then
    python -c "import tensorflow_datasets as t; t.builder('cifar10',
      file_format='array_record').download_and_prepare()"
    (TensorFlow is needed this once; training reads the files without it)
or set OTO_JAX_DATA to the folder that holds a folder cifar10."""


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
      images: uint8, shape ``(n, height, width, 3)``, RGB.
      labels: int32, shape ``(n,)``.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None) -> LabelledImages:
        """The first ``count`` examples, or all; any prefix of CIFAR-10 is a fair sample."""
        return LabelledImages(self.images[:count], self.labels[:count])


def load(split: Split, folder: Path | None = None) -> LabelledImages:
    """CIFAR-10's training or test set.

    Args:
      split: which.
      folder: where; default: ``cifar10`` in the data folder, then TFDS's folder.

    Raises:
      MissingDataError: if it is in none of the three forms there; says how to prepare it.
      DamagedDataError: if files are missing, cut off or altered.
    """
    places = [data_folder() / "cifar10", tfds_folder()] if folder is None else [folder]
    for place in places:
        for found, read in _forms(place):
            if found.exists():
                return read(found, split)
    raise MissingDataError(HOW_TO_PREPARE.format(places=" or ".join(map(str, places))))


def _forms(place: Path) -> Iterator[tuple[Path, Callable[[Path, Split], LabelledImages]]]:
    yield place / "train_labels.npy", lambda path, split: read_strips(path.parent, split)
    yield place / "cifar-10-batches-py", read_official
    yield place / "cifar-10-python.tar.gz", read_official
    if place.name == "cifar-10-batches-py":
        yield place, read_official
    yield place / "cifar10", read_tfds


def read_strips(folder: Path, split: Split) -> LabelledImages:
    """Reads pictures of 500 images each, laid one below the other.

    Raises:
      DamagedDataError: if the whole is not CIFAR-10, bit by bit.
    """
    files = sorted(folder.glob(f"{split}_[0-9]*.webp"))
    with ThreadPoolExecutor(4) as pool:
        images = np.concatenate([np.empty((0, 32, 32, 3), np.uint8), *pool.map(_strip, files)])
    return _verified(images, _labels(folder / f"{split}_labels.npy"), split, folder)


def _labels(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as opened:  # np.load would leave a damaged file open.
            return np.asarray(np.load(opened), np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise DamagedDataError(f"{file} holds no labels of CIFAR-10: {error}") from error


def _strip(file: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(file).convert("RGB")).reshape(-1, 32, 32, 3)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DamagedDataError(f"{file} is no strip of CIFAR-10 images: {error}") from error


def read_official(path: Path, split: Split) -> LabelledImages:
    """Reads the official Python archive, packed or unpacked.

    Raises:
      DamagedDataError: if the whole is not CIFAR-10, bit by bit.
    """
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    try:
        batches = [_unpickle(data) for data in _files(path, names)]
        data = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
        labels = np.concatenate([np.asarray(batch["labels"], np.uint8) for batch in batches])
        images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except (OSError, EOFError, tarfile.TarError, pickle.UnpicklingError, KeyError, ValueError) as e:
        raise DamagedDataError(f"{path} is not CIFAR-10's official archive: {e}") from e
    return _verified(np.ascontiguousarray(images), labels, split, path)


def _files(path: Path, names: Iterable[str]) -> list[bytes]:
    if path.is_dir():
        return [(path / name).read_bytes() for name in names]
    with tarfile.open(path) as archive:
        members = [archive.extractfile(f"cifar-10-batches-py/{name}") for name in names]
        return [member.read() for member in members if member is not None]


class _ArraysOnly(pickle.Unpickler):
    """Reads the archive's pickles, which may build NumPy arrays and nothing else."""

    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(data: bytes) -> dict[str, Any]:
    loaded = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    return {str(key): value for key, value in loaded.items()}


def read_tfds(folder: Path, split: Split) -> LabelledImages:
    """Reads what TensorFlow Datasets prepared in ArrayRecord, without TensorFlow.

    Args:
      folder: the data set's folder, which holds its versions.
      split: which.

    Raises:
      DamagedDataError: if TFDS cannot read it.
    """
    import tensorflow_datasets as tfds

    versions = sorted(folder.glob("[0-9]*"))
    if not versions:
        raise MissingDataError(f"{folder} holds no version of cifar10 as TFDS prepares them")
    with named_damage(versions[-1]):
        source = tfds.builder_from_directory(versions[-1]).as_data_source(split=split)
        examples = [source[i] for i in range(len(source))]
    images = np.stack([example["image"] for example in examples])
    labels = np.asarray([example["label"] for example in examples], np.int32)
    return LabelledImages(images, labels)


def _verified(images: np.ndarray, labels: np.ndarray, split: Split, where: Path) -> LabelledImages:
    if len(images) != SIZES[split] or len(labels) != SIZES[split]:
        raise DamagedDataError(
            f"{where} holds {len(images)} {split} images and {len(labels)} labels; CIFAR-10 has"
            f" {SIZES[split]}"
        )
    found = tuple(hashlib.sha256(array.data).hexdigest() for array in (images, labels))
    if found != SHA256[split]:
        what = "images" if found[0] != SHA256[split][0] else "labels"
        raise DamagedDataError(f"the {split} {what} in {where} are not CIFAR-10's (SHA-256)")
    return LabelledImages(images, labels.astype(np.int32))
