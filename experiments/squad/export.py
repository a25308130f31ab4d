"""A question-answering model as one file of StableHLO, for any batch size, without Flax.

`jax.export` keeps the traced program with its weights; who loads it needs JAX and none of this
project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from experiments.errors import DamagedDataError
from experiments.results import write_whole

PLATFORMS = ("cpu", "cuda", "tpu")


def export_model(path: Path, model: Any, variables: Any, length: int) -> None:
    """Writes a model to a file.

    Args:
      path: of the file.
      model: a `BertForQuestionAnswering`, or what has its ``apply``.
      variables: its variables, which become part of the file.
      length: tokens of a window; the batch size stays open.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def logits(input_ids: jax.Array, token_types: jax.Array, attention_mask: jax.Array) -> Any:
        return model.apply(variables, input_ids, token_types, attention_mask, train=False)

    exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(ids, ids, ids)
    write_whole(path, bytes(exported.serialize()))


def load_exported(path: Path) -> Any:
    """The function in such a file: ``(input_ids, token_types, attention_mask) -> logits``.

    Raises:
      DamagedDataError: if it is no such file.
    """
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # The deserialiser raises whatever the damaged bytes lead it to.
        raise DamagedDataError(f"{path} is not an exported model ({error!r})") from error
    return jax.jit(exported.call)
