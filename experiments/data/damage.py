"""Damaged files of TensorFlow Datasets, under one name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import json_format

from experiments.errors import DamagedDataError, ExperimentError

# ArrayRecord raises plain RuntimeErrors; so does Grain where a worker was killed, which is no
# damage of the data.
_ARRAY_RECORD = re.compile(r"Riegeli|\b(open|read|fstat)\(\) failed")


@contextlib.contextmanager
def named_damage(folder: Path) -> Iterator[None]:
    """Turns what TFDS and ArrayRecord raise on damaged files into a `DamagedDataError`.

    Args:
      folder: the data set that is being read.

    Raises:
      DamagedDataError: naming the folder.
    """
    try:
        yield
    except ExperimentError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, json_format.Error) as error:
        if isinstance(error, RuntimeError) and not _ARRAY_RECORD.search(str(error)):
            raise
        raise DamagedDataError(
            f"{folder} is damaged ({error}); delete it and prepare it again"
        ) from error
