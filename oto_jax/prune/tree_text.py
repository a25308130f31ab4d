"""The structure of a pytree of arrays as JSON, for trees of dictionaries, lists and tuples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from oto_jax.errors import CheckpointError
from oto_jax.zigs.partition import Path, key_path

Skeleton = Any
"""JSON: ``{"dict": {key: ...}}``, ``{"list": [...]}``, ``{"tuple": [...]}``, or a leaf's path."""


def skeleton(tree: Any) -> Skeleton:
    """The structure of ``tree``, its leaves replaced by their normalised paths.

    Any mapping becomes a dictionary and a boxed leaf its content.

    Raises:
      CheckpointError: if a node is of another kind.

    Example:
      >>> skeleton({"a": [1, 2]})
      {'dict': {'a': {'list': [['a', '0'], ['a', '1']]}}}
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: _Leaf(key_path(path)), tree)
    return _write(names)


class _Leaf:
    """Stands for a leaf with its path; no pytree node."""

    def __init__(self, path: Path) -> None:
        self.path = path


def _write(node: Any) -> Skeleton:
    if isinstance(node, _Leaf):
        return list(node.path)
    if isinstance(node, Mapping):
        return {"dict": {str(key): _write(entry) for key, entry in node.items()}}
    if isinstance(node, list):
        return {"list": [_write(entry) for entry in node]}
    if isinstance(node, tuple) and not hasattr(node, "_fields"):
        return {"tuple": [_write(entry) for entry in node]}
    leaves = jax.tree_util.tree_leaves(node)
    if len(leaves) == 1 and isinstance(leaves[0], _Leaf):
        return _write(leaves[0])
    raise CheckpointError(
        f"variables with a {type(node).__name__} inside cannot be saved; convert them to"
        " dictionaries, lists and tuples first"
    )


def read_skeleton(node: Skeleton, leaves: Mapping[Path, Any]) -> Any:
    """The tree that `skeleton` described, with the given leaves by path."""
    match node:
        case {"dict": entries}:
            return {key: read_skeleton(entry, leaves) for key, entry in entries.items()}
        case {"list": entries}:
            return [read_skeleton(entry, leaves) for entry in entries]
        case {"tuple": entries}:
            return tuple(read_skeleton(entry, leaves) for entry in entries)
        case _:
            return leaves[tuple(node)]
