"""ImageNet (ILSVRC 2012) from TensorFlow Datasets' ArrayRecord files, without TensorFlow.

Grain reads, decodes, augments and batches in worker processes. The batch of a step is a pure
function of the seed and the step, whatever the number of workers, and the hosts' parts of it
together are the batch of a single host; so the step is the position that a checkpoint has to keep.

Decoding is OpenCV's (libjpeg-turbo): on one core, 500 x 375 JPEGs of quality 92 decoded, cropped
and resized to 224 x 224 at 900 images per second, against 440 with Pillow and 930 with simplejpeg
(`measure_decoding` repeats it). A crop of more than twice the target size is decoded at half the
resolution, which JPEG allows for a quarter of the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import absl.flags
import cv2
import grain
import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.data.damage import named_damage
from experiments.data.folders import data_folder, tfds_folder
from experiments.errors import DamagedDataError, MissingDataError, OptionError

Split = Literal["train", "validation"]
Batch = dict[str, Any]

HOW_TO_PREPARE = """ImageNet, in ArrayRecord as TensorFlow Datasets prepares it, is not in {places}.
Full ImageNet: download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org
(they ask for an account) into ~/tensorflow_datasets/downloads/manual, then
  pip install tensorflow tensorflow-datasets, then
  python -c "import tensorflow_datasets as t; t.builder('imagenet2012',
    file_format='array_record').download_and_prepare()"
(TensorFlow is needed this once; training reads the files without it.)
To try the scripts on a miniature of 1,000 classes made from the shared sample images:
  python experiments/data/miniature_imagenet.py"""


@dataclasses.dataclass(frozen=True)
class ImageNet:
    """A prepared data set.

    Attributes:
      folder: TFDS's folder of one version.
      train: number of training images.
      validation: number of validation images.
      classes: number of classes.
    """

    folder: Path
    train: int
    validation: int
    classes: int


def find(folder: Path | None = None) -> ImageNet:
    """Finds ImageNet, in ``folder`` or in TFDS's and the data folder.

    Raises:
      MissingDataError: if it is in neither; says how to prepare it.
      DamagedDataError: if TFDS cannot read it.
    """
    import tensorflow_datasets as tfds

    places = [tfds_folder(), data_folder()] if folder is None else [folder]
    versions = [
        version
        for place in places
        for version in sorted((place / "imagenet2012").glob("[0-9]*"), reverse=True)
    ]
    if not versions:
        raise MissingDataError(HOW_TO_PREPARE.format(places=" or ".join(map(str, places))))
    with named_damage(versions[0]):
        info = tfds.builder_from_directory(versions[0]).info
        splits = {name: info.splits[name].num_examples for name in ("train", "validation")}
        classes = info.features["label"].num_classes
    return ImageNet(versions[0], splits["train"], splits["validation"], classes)


def encoded_examples(data: ImageNet, split: Split) -> Any:
    """A random-access source of ``{"image": JPEG bytes, "label", "file_name"}``."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(data.folder)
    if str(builder.info.file_format) != "FileFormat.ARRAY_RECORD":
        raise DamagedDataError(
            f"{data.folder} is in {builder.info.file_format}; only ArrayRecord can be read in any"
            " order: prepare it with file_format='array_record'"
        )
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(grain.transforms.RandomMap):
    """The paper's augmentation: a random part of the image, resized, half of the time mirrored.

    8 to 100 % of the area, aspect ratio 3/4 to 4/3 (Szegedy et al., arXiv:1409.4842).

    Attributes:
      size: side of the result, in pixels.
    """

    size: int

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> Batch:
        """From an encoded example to ``image`` uint8 ``(size, size, 3)`` and ``label``."""
        with _named(element):
            width, height = _dimensions(element["image"])
            part = random_part(width, height, rng)
            image = decode_part(element["image"], part, self.size)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        return {"image": image, "label": np.int32(element["label"])}


@dataclasses.dataclass(frozen=True)
class CentreCrop(grain.transforms.Map):
    """The centre of the image: seven eighths of its shorter side, resized.

    Attributes:
      size: side of the result, in pixels.
    """

    size: int

    def map(self, element: Mapping[str, Any]) -> Batch:
        """From an encoded example, or none, to ``image``, ``label`` and ``mask``."""
        if element["image"] is None:
            image = np.zeros((self.size, self.size, 3), np.uint8)
            return {"image": image, "label": np.int32(0), "mask": np.float32(0)}
        with _named(element):
            width, height = _dimensions(element["image"])
            side = round(min(width, height) * 224 / 256)
            part = ((width - side) // 2, (height - side) // 2, side, side)
            image = decode_part(element["image"], part, self.size)
        return {"image": image, "label": np.int32(element["label"]), "mask": np.float32(1)}


Part = tuple[int, int, int, int]


def random_part(width: int, height: int, rng: np.random.Generator) -> Part:
    """A random rectangle ``(left, top, width, height)`` inside an image, as in `RandomResizedCrop`.

    Ten tries; then the largest central part of an allowed aspect ratio.
    """
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (width - w) // 2, (height - h) // 2, w, h


def decode_part(encoded: bytes, part: Part, size: int) -> np.ndarray:
    """Decodes an image and resizes a part of it.

    Args:
      encoded: a JPEG or PNG file.
      part: ``(left, top, width, height)`` in the image's pixels.
      size: side of the result.

    Returns:
      uint8, shape ``(size, size, 3)``, RGB.

    Raises:
      DamagedDataError: if it cannot be decoded.
    """
    left, top, width, height = part
    halve = min(width, height) >= 2 * size
    mode = cv2.IMREAD_REDUCED_COLOR_2 if halve else cv2.IMREAD_COLOR
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DamagedDataError(f"an image of {len(encoded)} bytes cannot be decoded")
    scale = 2 if halve else 1
    cut = image[top // scale : (top + height) // scale, left // scale : (left + width) // scale]
    shrinks = min(cut.shape[:2]) >= size  # Averaging avoids aliasing where pixels get fewer.
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.cvtColor(cv2.resize(cut, (size, size), interpolation=method), cv2.COLOR_BGR2RGB)


@contextlib.contextmanager
def _named(element: Mapping[str, Any]) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except DamagedDataError as error:
        name = element.get("file_name", b"an image without a name")
        raise DamagedDataError(f"{name.decode()}: {error}") from error


def _dimensions(encoded: bytes) -> tuple[int, int]:
    """Width and height from the file's header."""
    try:
        width, height = Image.open(io.BytesIO(encoded)).size
    except UnidentifiedImageError as error:
        raise DamagedDataError(f"an image of {len(encoded)} bytes has no valid header") from error
    return width, height


def training_batches(
    data: ImageNet,
    batch_size: int,
    seed: int,
    start: int,
    *,
    size: int = 224,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Endless augmented batches, in an order shuffled anew each epoch.

    Args:
      data: the data set.
      batch_size: examples of all hosts together; examples that do not fill a batch are left out
        of an epoch.
      seed: of order and augmentation.
      start: the first step.
      size: side of the images.
      workers: worker processes; 0 works in threads of this process.
      host: this host's number.
      hosts: number of hosts.

    Yields:
      ``image`` uint8 ``(batch_size / hosts, size, size, 3)`` and ``label`` int32.

    Raises:
      OptionError: if there are fewer examples than one batch.
    """
    whole = data.train - data.train % batch_size
    if whole == 0:
        raise OptionError(f"{data.train} training images do not fill one batch of {batch_size}")
    examples = (
        grain.MapDataset.source(encoded_examples(data, "train"))
        .seed(seed)
        .shuffle()
        .slice(slice(whole))
        .repeat()
        .random_map(RandomResizedCrop(size))
    )
    batches = examples[host::hosts].batch(batch_size // hosts)
    yield from _read(data, batches[start:], workers)


def validation_batches(
    data: ImageNet,
    batch_size: int,
    *,
    size: int = 224,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Every validation image exactly once; what fills up the last batch has ``mask`` 0."""
    source = _FilledUp(encoded_examples(data, "validation"), batch_size)
    examples = grain.MapDataset.source(source)[host::hosts].map(CentreCrop(size))
    yield from _read(data, examples.batch(batch_size // hosts), workers)


@dataclasses.dataclass(frozen=True)
class _FilledUp:
    """A source followed by examples without an image, up to a multiple of the batch size."""

    source: Any
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size) * self.batch_size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[index] if index < len(self.source) else {"image": None}


def _read(data: ImageNet, batches: Any, workers: int) -> Iterator[Batch]:
    threads = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
    reading = batches.to_iter_dataset(threads)
    if workers:
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()  # Grain's workers read flags that nobody here parses.
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        reading = reading.mp_prefetch(options, worker_init_fn=_one_thread)
    else:
        _one_thread(0, 1)
    with contextlib.closing(iter(reading)) as iterator:
        while (batch := _next(data, iterator)) is not None:
            # A copy, for what workers send lies in shared memory that ends with them.
            yield {name: np.array(array) for name, array in batch.items()}


def _next(data: ImageNet, iterator: Iterator[Batch]) -> Batch | None:
    with named_damage(data.folder):
        return next(iterator, None)


def _one_thread(worker: int, workers: int) -> None:
    cv2.setNumThreads(1)  # The workers are the parallelism; OpenCV's own threads would compete.


def measure_decoding(data: ImageNet, seconds: float = 5.0, size: int = 224) -> float:
    """Augmented training images per second on one core of this machine."""
    _one_thread(0, 1)
    source = encoded_examples(data, "train")
    crop = RandomResizedCrop(size)
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        crop.random_map(source[count % len(source)], np.random.default_rng(count))
        count += 1
    return count / (time.process_time() - start)
