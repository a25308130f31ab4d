"""`ZIGs`: which entries of which parameters form one zero-invariant group.

Frozen data, no arrays: a `ZIGs` is hashable, can be closed over by `jit`, and costs a few
kilobytes however large the model is. A *space* is a set of axes that have to be cut together (the
channels of one residual stream, the units of one hidden layer, the heads of one attention); each of
its units is one group.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

import jax
import numpy as np

from oto_jax.errors import ZIGMismatchError
from oto_jax.zigs.call import Call

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the units of a space lie along one axis of an array.

    The entries with index ``idx`` in the box ``shape`` lie at position
    ``offset + sum(i * s for i, s in zip(idx, strides))`` and belong to unit ``idx[unit_dim]``.
    A plain channel axis of 64 is ``Run(0, (64,), (1,), 0)``; the heads of an axis that merges
    8 heads of 16 are ``Run(0, (8, 16), (16, 1), 0)``, its head dimensions the same with
    ``unit_dim=1``.
    """

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    unit_dim: int

    @property
    def units(self) -> int:
        return self.shape[self.unit_dim]

    def positions(self) -> np.ndarray:
        """Positions along the axis, an int array of shape ``self.shape``."""
        grids = np.indices(self.shape)
        return self.offset + sum(
            (g * s for g, s in zip(grids, self.strides, strict=True)),
            np.zeros(self.shape, np.int64),
        )

    def unit_numbers(self) -> np.ndarray:
        """The unit of each position, an int array of shape ``self.shape``."""
        return np.indices(self.shape)[self.unit_dim]


@dataclasses.dataclass(frozen=True)
class Member:
    """One axis of one array that a space runs along.

    ``path`` leads to the array from the root of the variables that were given to `find_zigs`.
    """

    path: Path
    axis: int
    runs: tuple[Run, ...]

    @property
    def positions_per_unit(self) -> int:
        """How many positions of the axis each unit of the space takes."""
        return sum(math.prod(run.shape) // run.units for run in self.runs)

    def unit_of_position(self, size: int) -> np.ndarray:
        """For each position of an axis of length ``size``: its unit, or -1. Shape ``(size,)``."""
        units = np.full(size, -1, np.int32)
        for run in self.runs:
            units[run.positions().ravel()] = run.unit_numbers().ravel()
        return units


@dataclasses.dataclass(frozen=True)
class Space:
    """A set of coupled axes; unit ``i`` of all ``members`` together is group ``start + i``.

    Attributes:
      name: a short unique name, taken from the first member's path.
      size: the number of units, hence of groups.
      start: the number of the first group.
      members: the axes whose slices form the groups (they become exactly zero).
      dependents: the axes that are cut along but do not have to be zero, such as the input
        axis of the next layer or the running mean of a BatchNorm.
      full_entries: after a cut, the number of parameters in each group of the full network; 0
        where nothing was cut.
    """

    name: str
    size: int
    start: int
    members: tuple[Member, ...]
    dependents: tuple[Member, ...]
    full_entries: int = dataclasses.field(default=0, compare=False)

    @property
    def groups(self) -> range:
        return range(self.start, self.start + self.size)

    @property
    def axes(self) -> tuple[Member, ...]:
        """Every axis that is cut with this space."""
        return self.members + self.dependents


@dataclasses.dataclass(frozen=True)
class Blocked:
    """An axis of a parameter that cannot be pruned, the reason, and the model's line."""

    path: Path
    axis: int
    size: int
    reason: str
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter: its path from the root of the variables, shape and dtype name."""

    path: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A parameter that maps some of its axes to others, as a kernel or an embedding table does.

    ``axes`` are those that its output has, such as the output channels of a convolution.
    """

    path: Path
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ZIGs:
    """The zero-invariant groups of a model, as `oto_jax.find_zigs` found them.

    Attributes:
      spaces: one row per set of coupled axes.
      blocked: every axis of every parameter that no space covers, with the reason.
      parameters: the trainable arrays, in the order of ``treedef``.
      prefix: what leads from the variables to the parameters: ``("params",)`` for Flax Linen,
        ``()`` where the variables are the parameters.
      treedef: structure of the parameters' pytree.
      call: the call that the groups were found with, which pruning checks the slim model on.
      shrunk: whether these are what `oto_jax.shrink_zigs` left of the groups of a larger model.
      layers: kernels and tables, prunable or not, in the order in which the program uses them.

    Example:
      >>> import jax, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> x = jax.ShapeDtypeStruct((1, 4), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
      >>> zigs = oto_jax.find_zigs(model, variables, x)
      >>> zigs.num_groups
      8
      >>> zigs.masks["layers_0"]["kernel"].shape
      (1, 8)
      >>> zigs.space_of(5).name, int(zigs.mask(5)["layers_0"]["kernel"].sum())
      ('layers_0', 1)
    """

    spaces: tuple[Space, ...]
    blocked: tuple[Blocked, ...]
    parameters: tuple[Leaf, ...]
    prefix: Path
    treedef: Any
    call: Call | None = None
    shrunk: bool = False
    layers: tuple[Layer, ...] = ()

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return (self.spaces, self.parameters, self.prefix, self.treedef)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, ZIGs) and self._key == other._key)

    def __repr__(self) -> str:
        from oto_jax.zigs.explain import summary

        return summary(self)

    @property
    def num_groups(self) -> int:
        """The number of groups in all spaces."""
        return sum(space.size for space in self.spaces)

    def entries_per_group(self, space: Space) -> int:
        """The number of parameters in each group of a space; after a cut, in the full network.

        Args:
          space: one of ``spaces``.

        Returns:
          An integer, the same for all groups of the space.
        """
        if space.full_entries:
            return space.full_entries
        shapes = {leaf.path: leaf.shape for leaf in self.parameters}
        return sum(
            math.prod(shapes[m.path]) // shapes[m.path][m.axis] * m.positions_per_unit
            for m in space.members
        )

    @property
    def masks(self) -> Any:
        """Group numbers: a pytree with the parameters' structure.

        Each leaf is an int32 NumPy array, broadcastable to the parameter (same rank, size 1 on
        the axes that the group does not depend on); its value is the group's number or -1.
        """
        members = self.members_by_path
        leaves = [_leaf_mask(leaf, members.get(leaf.path, ())) for leaf in self.parameters]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)

    def mask(self, group: int) -> Any:
        """A boolean pytree: which entries of the parameters belong to one group.

        Args:
          group: the group's number.

        Returns:
          NumPy arrays in the parameters' structure, broadcastable to them as ``masks`` are.

        Raises:
          IndexError: if there is no such group.
        """
        if not 0 <= group < self.num_groups:
            raise IndexError(f"group {group} is not in 0 ... {self.num_groups - 1}")
        return jax.tree_util.tree_map(lambda numbers: numbers == group, self.masks)

    def space_of(self, group: int) -> Space:
        """The space that a group belongs to.

        Args:
          group: the group's number.

        Returns:
          The space; the group's unit there is ``group - space.start``.

        Raises:
          IndexError: if there is no such group.
        """
        for space in self.spaces:
            if group in space.groups:
                return space
        raise IndexError(f"group {group} is not in 0 ... {self.num_groups - 1}")

    def explain(self, path: str) -> str:
        """What happens to one parameter, in words.

        Args:
          path: slash-separated, from the root of the variables or of the parameters.

        Returns:
          A line for the parameter, and one or more for each of its axes.

        Raises:
          ZIGMismatchError: if there is no such parameter.
        """
        from oto_jax.zigs.explain import explain

        return explain(self, path)

    def draw(self, file: str | FilePath | None = None) -> str:
        """The spaces and the layers between them as SVG; see `oto_jax.zigs.draw.draw`.

        Args:
          file: where to write the picture; None writes nothing.

        Returns:
          The SVG as text.

        Raises:
          ImportError: if igraph is missing, of the extra ``notebooks``.
        """
        from oto_jax.zigs.draw import draw

        return draw(self, file)

    @functools.cached_property
    def members_by_path(self) -> Mapping[Path, tuple[tuple[Space, Member], ...]]:
        """For each parameter: the spaces whose groups hold entries of it."""
        found: dict[Path, list[tuple[Space, Member]]] = {}
        for space in self.spaces:
            for member in space.members:
                found.setdefault(member.path, []).append((space, member))
        return {path: tuple(pairs) for path, pairs in found.items()}


def _leaf_mask(leaf: Leaf, pairs: tuple[tuple[Space, Member], ...]) -> np.ndarray:
    if not pairs:
        return np.full((1,) * len(leaf.shape), -1, np.int32)
    axis = pairs[0][1].axis  # The ZIGs are disjoint, so all members of a leaf share one axis.
    numbers = np.full(leaf.shape[axis], -1, np.int32)
    for space, member in pairs:
        units = member.unit_of_position(leaf.shape[axis])
        numbers = np.where(units >= 0, units + space.start, numbers)
    shape = [1] * len(leaf.shape)
    shape[axis] = leaf.shape[axis]
    return numbers.astype(np.int32).reshape(shape)


def key_path(path: tuple[Any, ...]) -> Path:
    """A JAX key path as plain strings, the same for every spelling of one tree.

    Attribute keys that only unbox a leaf (``.value`` of an NNX ``Variable`` or of a Linen
    ``Partitioned`` box) are left out, so that trees of boxed and of bare arrays match.
    """
    return tuple(_keys(path))


def _keys(path: tuple[Any, ...]) -> Iterator[str]:
    tree = jax.tree_util
    for key in path:
        match key:
            case tree.DictKey(key=name):
                yield str(name)
            case tree.SequenceKey(idx=index):
                yield str(index)
            case tree.FlattenedIndexKey(key=index):
                yield str(index)
            case tree.GetAttrKey(name=name):
                if name not in ("value", "raw_value"):
                    yield name
            case _:
                yield str(key)


def leaves_by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of a pytree by their normalised key path."""
    return {key_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def format_path(path: Path) -> str:
    """A path as people write it: ``params/Conv_0/kernel``."""
    return "/".join(path)


def check_parameters(zigs: ZIGs, params: Any) -> dict[Path, Any]:
    """The leaves of ``params`` by their path from the root of the variables.

    ``params`` is the parameters' tree, or the whole variables that hold it.

    Raises:
      ZIGMismatchError: if a parameter is missing or has another shape.
    """
    given = leaves_by_path(params)
    found: dict[Path, Any] = {}
    for leaf in zigs.parameters:
        short = leaf.path[len(zigs.prefix) :]
        array = given.get(short, given.get(leaf.path))
        if array is None:
            raise ZIGMismatchError(
                f"the parameters have no {format_path(short)!r}, which the ZIGs were found with;"
                " run find_zigs on this model, or pass the parameters it was run on"
            )
        if tuple(np.shape(array)) != leaf.shape:
            raise ZIGMismatchError(
                f"parameter {format_path(short)!r} has shape {tuple(np.shape(array))}, the ZIGs"
                f" were found with {leaf.shape}; run find_zigs on this model again"
            )
        found[leaf.path] = array
    return found
