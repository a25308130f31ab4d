"""The integers inside a model's configuration: found, marked and replaced.

A configuration is whatever a module's fields hold: integers, tuples, lists and mappings of them,
dataclasses, other modules, and plain objects with attributes (such as a `BertConfig`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from oto_jax.zigs.partition import Path

_DEEPEST = 8  # Configurations are shallow; objects that refer to each other are not followed.
_OPAQUE = (str, bytes, type, np.ndarray, np.generic, np.dtype, jax.Array)
_MODULE_FIELDS = ("parent", "name")


class MarkedInt(int):
    """An integer that remembers which leaf of the configuration it is.

    Arithmetic gives plain integers: what is still marked was passed on as it is.
    """

    leaf: Path

    @classmethod
    def of(cls, value: int, leaf: Path) -> MarkedInt:
        marked = cls(value)
        marked.leaf = leaf
        return marked


def int_leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """Every integer in ``value`` with the path that leads to it; booleans do not count."""
    if _is_int(value):
        yield path, value
    elif len(path) < _DEEPEST:
        for key, entry in _entries(value):
            yield from int_leaves(entry, (*path, key))


def mark(value: Any, path: Path = ()) -> Any:
    """A copy of ``value`` with every integer marked by its path."""
    if _is_int(value):
        return MarkedInt.of(value, path)
    if len(path) >= _DEEPEST:
        return value
    marked = {key: mark(entry, (*path, key)) for key, entry in _entries(value)}
    return _rebuilt(value, {key: new for key, new in marked.items() if _changed(value, key, new)})


def replaced(value: Any, leaves: Mapping[Path, Any]) -> Any:
    """A copy of ``value`` with other values at the given paths."""
    if () in leaves:
        return leaves[()]
    below: dict[str, dict[Path, Any]] = {}
    for path, new in leaves.items():
        below.setdefault(path[0], {})[path[1:]] = new
    entries = dict(_entries(value))
    return _rebuilt(value, {key: replaced(entries[key], new) for key, new in below.items()})


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and type(value) in (int, MarkedInt)


def _entries(value: Any) -> list[tuple[str, Any]]:
    """The named parts of a container; none for anything that is not configuration."""
    if value is None or isinstance(value, _OPAQUE):
        return []
    if isinstance(value, tuple | list):
        return [(str(index), entry) for index, entry in enumerate(value)]
    if isinstance(value, Mapping):
        return [(key, entry) for key, entry in value.items() if isinstance(key, str)]
    if dataclasses.is_dataclass(value):
        return [
            (field.name, getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init and field.name not in _MODULE_FIELDS and hasattr(value, field.name)
        ]
    if callable(value) or not hasattr(value, "__dict__"):
        return []
    return list(vars(value).items())


def _changed(value: Any, key: str, new: Any) -> bool:
    return dict(_entries(value))[key] is not new


def _rebuilt(value: Any, updates: Mapping[str, Any]) -> Any:
    """``value`` with some of its named parts replaced."""
    if not updates:
        return value
    if isinstance(value, tuple | list):
        entries = [updates.get(str(index), entry) for index, entry in enumerate(value)]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    if isinstance(value, Mapping):
        rebuild: Any = type(value)
        return rebuild({**value, **updates})
    if dataclasses.is_dataclass(value) and (clone := getattr(value, "clone", None)):
        return clone(**updates)  # A Flax module: `dataclasses.replace` would bind it.
    if dataclasses.is_dataclass(value):
        return dataclasses.replace(value, **updates)  # type: ignore[type-var]
    changed = copy.copy(value)
    vars(changed).update(updates)
    return changed


def part(value: Any, path: Path) -> Any:
    """What lies at ``path`` inside ``value``."""
    for key in path:
        value = dict(_entries(value))[key]
    return value


def marked_leaves(old: Any, new: Any) -> dict[Path, int]:
    """For a width field going from ``old`` to ``new``: the marked leaves that have to change."""
    olds = old if isinstance(old, tuple | list) else (old,)
    news = new if isinstance(new, tuple | list) else (new,)
    return {
        was.leaf: int(now)
        for was, now in zip(olds, news, strict=True)
        if isinstance(was, MarkedInt)
    }
