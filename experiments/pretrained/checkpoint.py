"""BERT checkpoints in Hugging Face's layout: a folder, or a name on the hub.

A checkpoint is ``config.json`` beside ``model.safetensors`` or ``pytorch_model.bin`` (either may
be split into shards with an index), and the tokenizer's files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from experiments.errors import DamagedDataError
from experiments.pretrained.torch_bin import read_torch_bin
from oto_jax.models.bert_config import BertConfig
from oto_jax.models.bert_weights import (
    LoadedBert,
    config_from_json,
    config_to_json,
    params_from_tensors,
    tensors_from_params,
)

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class CheckpointFilesError(DamagedDataError):
    """A checkpoint cannot be found, or one of its files is missing or damaged."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A BERT as its files give it: where they are, the configuration, and the parameters."""

    folder: Path
    config: BertConfig
    weights: LoadedBert


def load_bert(name: str | Path, head_seed: int = 0) -> Checkpoint:
    """Loads a BERT for question answering.

    Args:
      name: a folder, or a model's name on the hub (``google-bert/bert-base-uncased``), which is
        fetched once; with ``HF_HUB_OFFLINE=1`` only what was fetched before is used.
      head_seed: draws the question-answering head where the checkpoint has none.

    Raises:
      CheckpointFilesError: if there is no such checkpoint, or a file is missing or damaged.
      BertConfigError, BertWeightsError: if it is no BERT, or its weights do not fit.
    """
    folder = find_folder(name)
    config = read_config(folder / "config.json")
    return Checkpoint(folder, config, params_from_tensors(read_tensors(folder), config, head_seed))


def read_config(file: Path) -> BertConfig:
    """The configuration in a ``config.json``.

    Raises:
      CheckpointFilesError: if the file is missing or damaged.
      BertConfigError: if it is of no BERT.
    """
    return config_from_json(_read_json(file))


def save_bert(
    folder: str | Path, params: Mapping[str, Any], config: BertConfig, tokenizer: Path | None
) -> None:
    """Writes a BERT with uniform widths so that Hugging Face's libraries can load it.

    Args:
      folder: where to; made if it is missing.
      params: parameters of `BertForQuestionAnswering`.
      config: its configuration.
      tokenizer: a folder whose tokenizer files are copied along, or None.

    Raises:
      UnevenWidthsError: if the widths are not uniform.
    """
    tensors = tensors_from_params(params, config)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    partial = target / "model.safetensors.tmp"
    safetensors.numpy.save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config_to_json(config), indent=2) + "\n")
    for file in TOKENIZER_FILES if tokenizer else ():
        if tokenizer and (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, target / file)


def find_folder(name: str | Path) -> Path:
    """The folder of a checkpoint: the name itself, or what the hub's cache holds for it.

    Raises:
      CheckpointFilesError: if the name is neither a folder nor to be had from the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    # Only names that are not folders need this package.
    import huggingface_hub

    try:
        files = ["config.json", "*.safetensors", "pytorch_model*", "*.index.json"]
        return Path(
            huggingface_hub.snapshot_download(str(name), allow_patterns=[*files, *TOKENIZER_FILES])
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise CheckpointFilesError(
            f"{str(name)!r} is no folder, and the hub gives no such model ({error}); name a"
            " folder with config.json, model.safetensors and vocab.txt"
        ) from error


def read_tensors(folder: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint's folder; safetensors are preferred where there are both.

    Raises:
      CheckpointFilesError: if there are no weights, or a file is damaged.
    """
    for name in _WEIGHTS:
        for files in (_whole(Path(folder), name), _shards(Path(folder), name)):
            if files:
                return {key: array for file in files for key, array in _read(file).items()}
    raise CheckpointFilesError(f"{folder} holds none of {', '.join(_WEIGHTS)}")


def _whole(folder: Path, name: str) -> list[Path]:
    return [folder / name] if (folder / name).is_file() else []


def _shards(folder: Path, name: str) -> list[Path]:
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return []
    return [folder / shard for shard in sorted(set(_read_json(index)["weight_map"].values()))]


def _read(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise CheckpointFilesError(f"{file} is missing, though the index names it")
    if file.suffix == ".bin":
        return read_torch_bin(file)
    try:
        return _widen(safetensors.numpy.load_file(file))
    except safetensors.SafetensorError as error:
        raise CheckpointFilesError(f"{file} is damaged ({error}); fetch it again") from error


def _widen(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Floats of less than 32 bits (float16, bfloat16) as float32."""
    return {
        name: array.astype(np.float32)
        if array.dtype.itemsize == 2 and array.dtype.kind in "fV"
        else array
        for name, array in tensors.items()
    }


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointFilesError(f"{file} is missing; every checkpoint has one") from error
    except ValueError as error:
        raise CheckpointFilesError(f"{file} is not JSON ({error})") from error
