"""Features kept on disk, under a name that says what they were made of.

The name is a hash of the questions, the tokenizer, the window sizes and this format's version, so
a cache is never stale. Files are written whole and then renamed, so several processes may share a
folder; a damaged file is made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.squad.features import Features, WindowSizes, make_features
from experiments.squad.questions import Question, content_hash
from experiments.squad.tokenizer import Tokenizer

_FORMAT = 1  # To be raised when features change their meaning.
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


def cached_features(
    questions: Sequence[Question], tokenizer: Tokenizer, sizes: WindowSizes, folder: Path
) -> Features:
    """`make_features`, or its result of an earlier time.

    Args:
      questions, tokenizer, sizes: as of `make_features`.
      folder: of the cache; made if it is missing.
    """
    file = folder / f"features-{features_hash(questions, tokenizer, sizes)}.npz"
    if file.is_file():
        try:
            return _read(file)
        except _DAMAGE as error:
            print(f"{file} is damaged ({error}); its features are made again")
    features = make_features(questions, tokenizer, sizes)
    _write(file, features)
    return features


def features_hash(questions: Sequence[Question], tokenizer: Tokenizer, sizes: WindowSizes) -> str:
    """SHA-256 of everything that decides the features."""
    parts = [_FORMAT, content_hash(questions), tokenizer.fingerprint, dataclasses.astuple(sizes)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(file: Path) -> Features:
    # `np.load` would leave a damaged file open if it opened it itself.
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return Features(**{f.name: arrays[f.name] for f in dataclasses.fields(Features)})


def _write(file: Path, features: Features) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f.name: getattr(features, f.name) for f in dataclasses.fields(Features)}
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as partial:
        try:
            np.savez_compressed(partial, **arrays)
            partial.flush()
            os.fsync(partial.fileno())
            os.replace(partial.name, file)
        except BaseException:
            os.unlink(partial.name)
            raise
