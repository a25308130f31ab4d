"""`Plan`: what is kept of every array, as frozen data that can be written as JSON."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from oto_jax.errors import UnprunableModelError, ZIGMismatchError
from oto_jax.prune.zero_units import nonzero_units
from oto_jax.zigs.call import Call
from oto_jax.zigs.partition import Member, Path, Space, ZIGs, format_path, leaves_by_path

Form = Literal["arrays", "configuration", "widths", "attributes"]
SOFTMAX_DEPTH = "softmax_depth"
"""The pseudo-field of an `Override` that keeps an attention layer's scale."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """Which positions of an axis of ``size`` stay, as ascending half-open ranges.

    Example:
      >>> cut = Cut.of(6, [0, 1, 2, 5])
      >>> cut.kept, cut.count
      (((0, 3), (5, 6)), 4)
    """

    size: int
    kept: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: int, positions: Iterable[int]) -> Cut:
        """The cut that keeps ``positions`` (any order, no repeats) of an axis of ``size``."""
        mask = np.zeros(size + 2, np.int8)
        mask[1 + np.fromiter(positions, np.int64)] = 1
        edges = np.flatnonzero(np.diff(mask))
        return cls(size, tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)))

    @functools.cached_property
    def count(self) -> int:
        return sum(stop - start for start, stop in self.kept)

    @property
    def positions(self) -> np.ndarray:
        """The kept positions in ascending order, int64 of shape ``(count,)``."""
        return np.concatenate([np.arange(0), *(np.arange(a, b) for a, b in self.kept)])

    @property
    def whole(self) -> bool:
        return self.count == self.size


@dataclasses.dataclass(frozen=True)
class ArrayPlan:
    """One array of the variables: its full shape and the cut of each axis that shrinks."""

    path: Path
    shape: tuple[int, ...]
    cuts: tuple[tuple[int, Cut], ...] = ()

    @property
    def slim_shape(self) -> tuple[int, ...]:
        sizes = list(self.shape)
        for axis, cut in self.cuts:
            sizes[axis] = cut.count
        return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class SpacePlan:
    """One space: which of its units stay, and whether all of them were zero."""

    name: str
    start: int
    units: Cut
    emptied: bool = False


@dataclasses.dataclass(frozen=True)
class Override:
    """A width of the slim module: ``field`` of the module at ``path`` is now ``value``.

    ``field`` leads into nested configuration: ``("features",)``, ``("config", "heads")``,
    ``("widths", "0")``. The field ``("softmax_depth",)`` of an attention layer is not one of its
    own: there the scores stay divided by the square root of ``value``, the full head dimension.
    """

    path: Path
    field: Path
    value: int | tuple[int, ...]


def depths_of(overrides: Sequence[Override]) -> dict[Path, int]:
    """The full head dimensions that attention layers keep as their scale, by the layer's path."""
    return {
        override.path: override.value
        for override in overrides
        if override.field == (SOFTMAX_DEPTH,) and isinstance(override.value, int)
    }


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """What pruning keeps: static, hashable, and JSON through `Plan.to_json`.

    Attributes:
      spaces: the kept units of each space.
      arrays: every array of the variables, cut or not.
      prefix: what leads from the variables to the parameters, as in `ZIGs`.
      form: how the slim model is made: the same class with other ``configuration``, the same
        class with overridden ``widths`` (Linen), set ``attributes`` (NNX), or ``arrays`` alone.
      overrides: the widths that change, for `form`.
      call: what the model was called with when it was rebuilt, for checks on loading.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)).at[:, 1].set(0), "b": jnp.ones((3, 4))}
      >>> plan = oto_jax.make_plan(params, oto_jax.find_zigs(f, params, jnp.ones((1, 2))))
      >>> plan
      Plan: 2 of 3 groups stay
        a       3 -> 2
      >>> plan.kept_groups, plan.units("a").positions, plan.whole
      (array([0, 2]), array([0, 2]), False)
      >>> plan.by_path[("b",)].slim_shape
      (2, 4)
      >>> Plan.from_json(plan.to_json()) == plan
      True
    """

    spaces: tuple[SpacePlan, ...]
    arrays: tuple[ArrayPlan, ...]
    prefix: Path
    form: Form = "arrays"
    overrides: tuple[Override, ...] = ()
    call: Call | None = dataclasses.field(default=None, compare=False)

    @functools.cached_property
    def by_path(self) -> Mapping[Path, ArrayPlan]:
        """The plan of each array by its path from the root of the variables."""
        return {array.path: array for array in self.arrays}

    @functools.cached_property
    def kept_groups(self) -> np.ndarray:
        """Numbers of the groups that stay, ascending; int64."""
        kept = [space.start + space.units.positions for space in self.spaces]
        return np.sort(np.concatenate([np.arange(0), *kept]))

    @property
    def whole(self) -> bool:
        """Whether nothing is cut."""
        return all(space.units.whole for space in self.spaces)

    def units(self, space: str) -> Cut:
        """The kept units of the space of that name.

        Args:
          space: its name, as in ``spaces``.

        Returns:
          The cut: the number of units and which of them stay.

        Raises:
          ZIGMismatchError: if there is no such space.
        """
        for row in self.spaces:
            if row.name == space:
                return row.units
        raise ZIGMismatchError(
            f"the plan has no space {space!r}; it was made with other ZIGs: use those that"
            " prune was called with"
        )

    def __repr__(self) -> str:
        rows = [f"Plan: {self.kept_groups.size} of {self._groups} groups stay"]
        width = max((len(space.name) for space in self.spaces), default=0)
        for space in self.spaces:
            note = ""
            if space.emptied:
                note = f"  (all zero{': one stays' if space.units.count else ''})"
            rows.append(
                f"  {space.name:{width}}  {space.units.size:>6} -> {space.units.count}{note}"
            )
        return "\n".join(rows)

    @property
    def _groups(self) -> int:
        return sum(space.units.size for space in self.spaces)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; `Plan.from_json` reads it back.

        Returns:
          Dictionaries, sequences, numbers and strings that `json.dumps` writes.
        """
        table: dict[Cut, int] = {}
        for array in self.arrays:
            for _, cut in array.cuts:
                table.setdefault(cut, len(table))
        for space in self.spaces:
            table.setdefault(space.units, len(table))
        return {
            "cuts": [{"size": cut.size, "kept": cut.kept} for cut in table],
            "spaces": [
                {"name": s.name, "start": s.start, "units": table[s.units], "emptied": s.emptied}
                for s in self.spaces
            ],
            "arrays": [
                {"path": a.path, "shape": a.shape, "cuts": [(i, table[c]) for i, c in a.cuts]}
                for a in self.arrays
            ],
            "prefix": self.prefix,
            "form": self.form,
            "overrides": [dataclasses.asdict(override) for override in self.overrides],
            "call": self.call.to_json() if self.call else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `Plan.to_json` wrote.

        Args:
          data: what it returned, or what `json.loads` made of that.

        Returns:
          A plan equal to the one that was written.
        """
        cuts = [
            Cut(entry["size"], tuple((a, b) for a, b in entry["kept"])) for entry in data["cuts"]
        ]
        return cls(
            spaces=tuple(
                SpacePlan(s["name"], s["start"], cuts[s["units"]], s["emptied"])
                for s in data["spaces"]
            ),
            arrays=tuple(
                ArrayPlan(
                    tuple(a["path"]),
                    tuple(a["shape"]),
                    tuple((axis, cuts[number]) for axis, number in a["cuts"]),
                )
                for a in data["arrays"]
            ),
            prefix=tuple(data["prefix"]),
            form=data["form"],
            overrides=tuple(_override_from_json(entry) for entry in data["overrides"]),
            call=Call.from_json(data["call"]),
        )


def _override_from_json(entry: Mapping[str, Any]) -> Override:
    value = entry["value"]
    return Override(
        tuple(entry["path"]),
        tuple(entry["field"]),
        tuple(value) if isinstance(value, list) else value,
    )


def make_plan(variables: Any, zigs: ZIGs, *, round_to: int = 1, keep_one: bool = True) -> Plan:
    """Reads which groups are zero and plans to cut them.

    A unit goes when its slice is bitwise zero (either sign) in every member of its space. Each
    space keeps at least one unit, the first; ``round_to`` keeps the first zero units besides, so
    that the number kept is a multiple of it or the full size.

    Args:
      variables: the pytree of arrays that ``zigs`` was found on.
      zigs: the groups.
      round_to: what the kept widths have to be a multiple of, such as 8 or 128.
      keep_one: whether a space that is zero throughout keeps a unit, as Flax's layers need it;
        otherwise nothing of it stays, and `narrow` drops the whole branch.

    Returns:
      The plan. Its `Plan.form` is ``"arrays"``: no model is rebuilt yet.

    Raises:
      NonFiniteParametersError: if a parameter holds NaN or infinity.
      ZIGMismatchError: if ``variables`` are not those of ``zigs``, or hold no values.
      UnprunableModelError: if ``zigs`` has no groups.

    Example:
      >>> import jax.numpy as jnp, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 3)).at[:, 1].set(0), "b": jnp.ones((3, 4))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> plan = oto_jax.make_plan(params, zigs)
      >>> [array.slim_shape for array in plan.arrays]
      [(2, 2), (2, 4)]
    """
    if not isinstance(round_to, int | np.integer) or round_to < 1:
        raise UnprunableModelError(f"round_to has to be a positive integer, not {round_to!r}")
    if not zigs.num_groups:
        raise UnprunableModelError(
            "there is nothing to prune: the ZIGs hold no group; zigs.blocked says for each axis why"
        )
    alive = nonzero_units(variables, zigs)
    emptied = frozenset(name for name, units in alive.items() if not units.any())
    dropped = frozenset() if keep_one else emptied
    kept = {
        space.name: kept_units(np.flatnonzero(alive[space.name]), space.size, int(round_to))
        for space in zigs.spaces
        if space.name not in dropped
    }
    kept |= {name: np.arange(0) for name in dropped}
    return plan_of_units(variables, zigs, kept, emptied)


def kept_units(alive: np.ndarray, size: int, round_to: int) -> np.ndarray:
    """The units that stay: all that are ``alive``, and the first others up to a round number."""
    wanted = min(size, round_to * -(-max(len(alive), 1) // round_to))
    others = np.setdiff1d(np.arange(size), alive)
    return np.sort(np.concatenate([alive, others[: wanted - len(alive)]]))


def plan_of_units(
    variables: Any,
    zigs: ZIGs,
    kept: Mapping[str, Sequence[int] | np.ndarray],
    emptied: frozenset[str] = frozenset(),
) -> Plan:
    """The plan that keeps the given units of each space, whatever the values.

    Works on `jax.ShapeDtypeStruct` too. A position of an axis stays if every unit of every space
    that covers it stays.

    Args:
      variables: the pytree of arrays that ``zigs`` was found on.
      zigs: the groups.
      kept: the units to keep by the space's name; a space that is missing keeps all.
      emptied: names of the spaces that were zero throughout.

    Raises:
      ZIGMismatchError: if ``variables`` are not those of ``zigs``.
    """
    spaces = tuple(
        SpacePlan(
            space.name,
            space.start,
            Cut.of(space.size, kept.get(space.name, range(space.size))),
            space.name in emptied,
        )
        for space in zigs.spaces
    )
    leaves = leaves_by_path(variables)
    masks = _axis_masks(zigs.spaces, spaces, leaves)
    arrays = tuple(_array_plan(path, leaf, masks.get(path, {})) for path, leaf in leaves.items())
    return Plan(spaces, arrays, zigs.prefix, call=zigs.call)


def _axis_masks(
    spaces: Sequence[Space], plans: Sequence[SpacePlan], leaves: Mapping[Path, Any]
) -> dict[Path, dict[int, np.ndarray]]:
    masks: dict[Path, dict[int, np.ndarray]] = {}
    for space, plan in zip(spaces, plans, strict=True):
        stays = np.zeros(space.size, bool)
        stays[plan.units.positions] = True
        for member in space.axes:
            size = _axis_size(member, leaves, space)
            axes = masks.setdefault(member.path, {})
            mask = axes.setdefault(member.axis, np.ones(size, bool))
            for run in member.runs:
                mask[run.positions().ravel()] &= stays[run.unit_numbers().ravel()]
    return masks


def _axis_size(member: Member, leaves: Mapping[Path, Any], space: Space) -> int:
    """Length of the member's axis, after checking that its runs lie inside it."""
    leaf = leaves.get(member.path)
    if leaf is None:
        raise ZIGMismatchError(
            f"the variables have no {format_path(member.path)!r}, which space {space.name!r} runs"
            " along; pass all the variables that find_zigs was run on"
        )
    needed = 1 + max(int(run.positions().max()) for run in member.runs)
    shape = np.shape(leaf)
    if member.axis >= len(shape) or shape[member.axis] < needed:
        raise ZIGMismatchError(
            f"{format_path(member.path)!r} has shape {tuple(shape)}, but space {space.name!r}"
            f" covers {needed} positions of axis {member.axis}; run find_zigs on this model again"
        )
    return int(shape[member.axis])


def _array_plan(path: Path, leaf: Any, masks: Mapping[int, np.ndarray]) -> ArrayPlan:
    cuts = tuple(
        (axis, Cut.of(len(mask), np.flatnonzero(mask)))
        for axis, mask in sorted(masks.items())
        if not mask.all()
    )
    return ArrayPlan(path, tuple(np.shape(leaf)), cuts)
