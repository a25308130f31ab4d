"""Where data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def data_folder() -> Path:
    """Where all data sets lie: ``$OTO_JAX_DATA``, else ``shared/data`` beside the repository."""
    return Path(os.environ.get("OTO_JAX_DATA", ROOT.parent / "shared" / "data"))


def tfds_folder() -> Path:
    """Where TensorFlow Datasets keeps what it prepared: ``$TFDS_DATA_DIR`` or its default."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
