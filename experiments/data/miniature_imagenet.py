"""A miniature ImageNet in TensorFlow Datasets' layout, made from the shared sample images.

``python experiments/data/miniature_imagenet.py`` writes ``imagenet2012/5.1.0`` in ArrayRecord, with
all 1,000 classes: training on one image of each class and 1,500 of ten classes, validation on 500
others of those ten. It is read by the very code that reads the full data set; it teaches a
network little.
"""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.data.folders import ROOT, data_folder
from experiments.errors import DamagedDataError, MissingDataError


@dataclasses.dataclass(frozen=True)
class Config:
    """Makes the miniature.

    Attributes:
      folder: where to; give the same to ``resnet50_imagenet.py --data-dir``.
      images: where the sample images are; default: the shared data.
    """

    folder: Path = ROOT / "runs" / "miniature"
    images: Path | None = None


def sample_files(images: Path) -> dict[str, list[Path]]:
    """The image files of each split; their names or folders begin with the WordNet id.

    Raises:
      MissingDataError: if they are not there.
      DamagedDataError: if they are not of 1,000 classes.
    """
    one_per_class = sorted((images / "imagenet1k_sample160").glob("*.JPEG"))
    imagenette = images / "imagenette_mini"
    ten_classes = sorted((imagenette / "train").glob("*/*.JPEG"))
    validation = sorted((imagenette / "val").glob("*/*.JPEG"))
    if not (one_per_class and ten_classes and validation):
        raise MissingDataError(
            f"{images} lacks imagenet1k_sample160 or imagenette_mini; set OTO_JAX_DATA to the"
            " folder that holds them"
        )
    classes = len({wordnet_id(file) for file in one_per_class})
    if classes != 1000:
        raise DamagedDataError(f"imagenet1k_sample160 holds {classes} classes instead of 1000")
    return {"train": one_per_class + ten_classes, "validation": validation}


def wordnet_id(file: Path) -> str:
    """The class of an image file, such as ``n01440764``."""
    parent = file.parent.name
    return parent if parent[:1] == "n" and parent[1:].isdigit() else file.name.split("_")[0]


def prepare(folder: Path, images: Path | None = None) -> Path:
    """Writes the miniature, unless it is there.

    Args:
      folder: where to.
      images: where the sample images are.

    Returns:
      The folder of the data set's version.
    """
    import tensorflow_datasets as tfds

    files = sample_files(data_folder() if images is None else images)
    names = sorted({wordnet_id(file) for file in files["train"]})

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        """The miniature under the full data set's name, features and splits."""

        name = "imagenet2012"
        VERSION = tfds.core.Version("5.1.0")

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=names),
                    "file_name": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, downloads: Any) -> dict[str, Any]:
            return {split: self._generate_examples(paths) for split, paths in files.items()}

        def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[str, Any]]:
            for path in paths:
                yield (
                    path.name,
                    {
                        "image": io.BytesIO(path.read_bytes()),
                        "label": wordnet_id(path),
                        "file_name": path.name,
                    },
                )

    builder = Imagenet2012(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


if __name__ == "__main__":
    config = tyro.cli(Config)
    try:
        print(prepare(config.folder, config.images))
    except (MissingDataError, DamagedDataError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
