"""`Call`: what a model was called with, kept as shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

_KEY_PREFIX = "key<"


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """The arguments after the variables: arrays as `jax.ShapeDtypeStruct`, the rest as given.

    For Flax Linen the keyword arguments are those of ``apply``: ``method``, ``mutable`` and
    ``rngs`` stand among them.

    Example:
      >>> import jax.numpy as jnp
      >>> call = Call.of(jnp.ones((2, 3)), train=False)
      >>> call.args[0].shape, call.kwargs
      ((2, 3), {'train': False})
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, *args: Any, **kwargs: Any) -> Call:
        """The call with these arguments; arrays keep their shapes and dtypes alone."""
        tree_map = jax.tree_util.tree_map
        return cls(tree_map(_abstract, args), tree_map(_abstract, kwargs))

    def arrays(self) -> list[jax.ShapeDtypeStruct]:
        """The array arguments, in order."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, jax.ShapeDtypeStruct)]

    def filled(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments and keyword arguments with ``arrays`` in the places of `arrays`."""
        given = iter(arrays)
        leaves = [
            next(given) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
            for leaf in self._leaves()
        ]
        treedef = jax.tree_util.tree_structure((self.args, self.kwargs))
        args, kwargs = jax.tree_util.tree_unflatten(treedef, leaves)
        return args, dict(kwargs)

    def _leaves(self) -> list[Any]:
        return jax.tree_util.tree_leaves((self.args, self.kwargs))

    def to_json(self) -> dict[str, Any] | None:
        """The call as JSON values, or None where an argument has no such form."""
        try:
            return {"args": _to_json(list(self.args)), "kwargs": _to_json(dict(self.kwargs))}
        except TypeError:
            return None

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Call | None:
        """The call that `to_json` wrote."""
        if data is None:
            return None
        return cls(tuple(_from_json(data["args"])), _from_json(data["kwargs"]))


def abstract_array(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of an array as JAX will see it: NumPy's float64 as float32, without x64."""
    dtype = array.dtype
    if isinstance(dtype, np.dtype):  # and not that of typed random keys
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(np.shape(array), dtype)


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return abstract_array(leaf)
    return leaf


def _to_json(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case jax.ShapeDtypeStruct():
            return {"array": [list(value.shape), str(value.dtype)]}
        case tuple() if not hasattr(value, "_fields"):
            return {"tuple": [_to_json(entry) for entry in value]}
        case list():
            return [_to_json(entry) for entry in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": {key: _to_json(entry) for key, entry in value.items()}}
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def _from_json(value: Any) -> Any:
    match value:
        case {"array": [shape, dtype]}:
            return jax.ShapeDtypeStruct(tuple(shape), _dtype(dtype))
        case {"tuple": entries}:
            return tuple(_from_json(entry) for entry in entries)
        case {"dict": entries}:
            return {key: _from_json(entry) for key, entry in entries.items()}
        case list():
            return [_from_json(entry) for entry in value]
        case _:
            return value


def _dtype(name: str) -> Any:
    if not name.startswith(_KEY_PREFIX):
        return jax.numpy.dtype(name)
    names = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}
    return jax.eval_shape(lambda: jax.random.key(0, impl=names[name])).dtype
