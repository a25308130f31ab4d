"""Where SQuAD's questions are found: JSON files, or what TensorFlow Datasets prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from experiments.data.folders import data_folder, tfds_folder
from experiments.errors import MissingDataError
from experiments.squad.questions import Question, questions_from_tfds, read_questions

Split = Literal["train", "dev"]
_TFDS_SPLITS = {"train": "train", "dev": "validation"}
WHOLE = {"train": 87_599, "dev": 10_570}

HOW_TO_PREPARE = """SQuAD v1.1's {split} questions were not found in {places}. Either
  curl -LO https://rajpurkar.github.io/SQuAD-explorer/dataset/{split}-v1.1.json
  and give it as --{option}-file {split}-v1.1.json, or put it into {places}; or
  pip install tensorflow-datasets importlib_resources, then
    python -c "import tensorflow_datasets as t; t.builder('squad',
      file_format='array_record').download_and_prepare()"
or set OTO_JAX_DATA to the folder that holds a folder squad."""


def load_questions(split: Split, file: Path | None = None) -> tuple[Question, ...]:
    """SQuAD's training or development questions.

    Args:
      split: which.
      file: a JSON file, plain or ``.xz``. By default ``train-v1.1.json`` or ``dev-v1.1.json`` in
        the folder ``squad`` of the data folder, then TFDS's folder, then a part of the training
        set (``train-v1.1-*.json``), if that is all there is; it prints how much is missing.

    Raises:
      MissingDataError: if there are none; says how to prepare them.
      SquadFormatError: if they are damaged.
    """
    if file is not None:
        return read_questions(file)
    for found in _files(f"{split}-v1.1.json*"):
        return read_questions(found)
    prepared = tfds_folder() / "squad" / "v1.1"
    if prepared.is_dir():
        return read_tfds(prepared, split)
    for found in _files(f"{split}-v1.1-*.json*"):
        questions = read_questions(found)
        print(f"{found.name} holds {len(questions)} of the {WHOLE[split]} {split} questions")
        return questions
    option = {"train": "train", "dev": "eval"}[split]
    places = f"{data_folder() / 'squad'}"
    raise MissingDataError(HOW_TO_PREPARE.format(split=split, places=places, option=option))


def _files(pattern: str) -> Iterator[Path]:
    yield from sorted((data_folder() / "squad").glob(pattern))


def read_tfds(folder: Path, split: Split) -> tuple[Question, ...]:
    """Reads what TensorFlow Datasets prepared in ArrayRecord, without TensorFlow.

    Args:
      folder: of the configuration ``v1.1``, which holds its versions.
      split: which.

    Raises:
      MissingDataError: if there is no version in it.
      SquadFormatError: if its records are not SQuAD's.
    """
    import tensorflow_datasets as tfds

    versions = sorted(folder.glob("[0-9]*"))
    if not versions:
        raise MissingDataError(f"{folder} holds no version of squad as TFDS prepares them")
    source = tfds.builder_from_directory(versions[-1]).as_data_source(split=_TFDS_SPLITS[split])
    return questions_from_tfds(source[index] for index in range(len(source)))
