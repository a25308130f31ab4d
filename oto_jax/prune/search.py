"""Which integers of a user's own module are widths that shrink: proposed, then tried.

A module that reshapes by ``self.num_heads`` or makes its own parameters reads its widths from its
own fields, under names nobody can list. A field is proposed where it equals the full size of an
axis or a space that shrinks there; a trial run then says where the model breaks next.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from oto_jax.errors import UnprunableModelError
from oto_jax.prune.plan import Cut, Override, Plan
from oto_jax.zigs.partition import Path

_MOST_TRIALS = 256
_MOST_FIELDS = 4  # Fields of one module that change together.

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Trial(Generic[Result]):
    """How the model ran with some overrides: its result, or the module that broke and why.

    ``ran`` tells whether the model ran through and was only refused by the checks that follow.
    """

    result: Result | None = None
    broke_at: Path = ()
    error: Exception | None = None
    ran: bool = False


def search(
    attempt: Callable[[tuple[Override, ...]], Trial[Result]],
    proposals: Callable[[Path], Sequence[Override]],
    kind: Callable[[Path], Hashable],
) -> Trial[Result]:
    """Depth-first search for overrides under which the model runs.

    Where a run breaks in a module, the proposals for that module and then for those around it are
    added, few fields before many. At first, modules of one kind are taken to need the same fields,
    a model that runs wrongly is given up at once, and so is a field that changes nothing: a deep
    stack of blocks costs one run a block. If that finds nothing, each module is tried by itself.

    Args:
      attempt: runs the model with overrides.
      proposals: the overrides that may be needed at a module's path.
      kind: of the module at a path, such as its class.

    Returns:
      The first trial that has a result; else the first that ran, or the one with no override.
    """
    known: dict[frozenset[Override], Trial[Result]] = {}

    def remembered(chosen: tuple[Override, ...]) -> Trial[Result]:
        key = frozenset(chosen)
        if key not in known:
            known[key] = attempt(chosen)
        return known[key]

    trial = _explore_alike(remembered, proposals, kind, itertools.count(1))
    return trial if trial.error is None else _explore(remembered, proposals, itertools.count(1))


def _explore(
    attempt: Callable[[tuple[Override, ...]], Trial[Result]],
    proposals: Callable[[Path], Sequence[Override]],
    trials: Iterator[int],
    chosen: tuple[Override, ...] = (),
) -> Trial[Result]:
    trial = attempt(chosen)
    if trial.error is None:
        return trial
    for added in _additions(trial.broke_at, chosen, proposals):
        if next(trials) > _MOST_TRIALS:
            break
        deeper = _explore(attempt, proposals, trials, chosen + added)
        if deeper.error is None:
            return deeper
        if deeper.ran and not trial.ran:
            trial = deeper
    return trial


@dataclasses.dataclass(frozen=True)
class _Mended:
    """What mended the first module of a kind: values of fields, and how far up their owners are."""

    path: Path
    values: Mapping[tuple[int, Path], Any] = dataclasses.field(default_factory=dict)


def _explore_alike(
    attempt: Callable[[tuple[Override, ...]], Trial[Result]],
    proposals: Callable[[Path], Sequence[Override]],
    kind: Callable[[Path], Hashable],
    trials: Iterator[int],
    chosen: tuple[Override, ...] = (),
    mended: Mapping[Hashable, _Mended] = types.MappingProxyType({}),
    before: Trial[Result] | None = None,
) -> Trial[Result]:
    """As `_explore`; what mended one module is what mends those of its kind."""
    trial = attempt(chosen)
    if trial.error is None or trial.ran or (before and _same_break(trial, before)):
        return trial
    path = trial.broke_at
    first = mended.get(kind(path), _Mended(path))
    copies = first.path != path
    alike = _same_fields(path, first, chosen, proposals)
    best = trial
    for number, added in enumerate(alike if copies else _additions(path, chosen, proposals)):
        # The values that mended the first of a kind come first, and cost nothing to try again.
        if not (copies and number == 0) and next(trials) > _MOST_TRIALS:
            break
        values = {**first.values, **{(len(path) - len(o.path), o.field): o.value for o in added}}
        now = mended if copies else {**mended, kind(path): _Mended(path, values)}
        deeper = _explore_alike(attempt, proposals, kind, trials, chosen + added, now, trial)
        if deeper.error is None:
            return deeper
        if deeper.ran and not best.ran:
            best = deeper
    return best


def _same_break(one: Trial[Any], other: Trial[Any]) -> bool:
    """Whether two runs broke alike; an error's later lines may name values of one run only."""
    return one.broke_at == other.broke_at and _first_line(one) == _first_line(other)


def _first_line(trial: Trial[Any]) -> str:
    return str(trial.error).partition("\n")[0]


def _same_fields(
    path: Path,
    first: _Mended,
    chosen: tuple[Override, ...],
    proposals: Callable[[Path], Sequence[Override]],
) -> Iterator[tuple[Override, ...]]:
    """What sets, at a module and those around it, the fields that are not set yet.

    The values that mended the first of the kind lead.
    """
    settled = {(override.path, override.field) for override in chosen}
    wanted: dict[tuple[Path, Path], list[Override]] = {}
    for (up, field), value in sorted(first.values.items()):
        found = [o for o in proposals(path[: max(0, len(path) - up)]) if o.field == field]
        led = [o for o in found if o.value == value] + [o for o in found if o.value != value]
        for override in led:
            if (override.path, field) not in settled:
                wanted.setdefault((override.path, field), []).append(override)
    if wanted:
        yield from itertools.product(*wanted.values())


def cannot_rebuild(module: str, trial: Trial[Any]) -> UnprunableModelError:
    """The error for a model that does not run at its new widths, or not rightly."""
    what = (
        "runs at its new widths but is not the same model"
        if trial.ran
        else "does not run at its new widths, probably because it fixes a shape in its code"
    )
    error = UnprunableModelError(
        f"module {module!r} {what}: {trial.error}\nUse oto_jax.narrow(fn, variables, zigs), which"
        " needs no new module, or keep its parameters whole with find_zigs(..., unprunable=...)"
    )
    error.__cause__ = trial.error
    return error


def _additions(
    path: Path,
    chosen: tuple[Override, ...],
    proposals: Callable[[Path], Sequence[Override]],
) -> Iterator[tuple[Override, ...]]:
    settled = {(override.path, override.field) for override in chosen}
    for depth in range(len(path), -1, -1):
        by_field: dict[Path, list[Override]] = {}
        for override in proposals(path[:depth]):
            if (override.path, override.field) not in settled:
                by_field.setdefault(override.field, []).append(override)
        for count in range(1, min(len(by_field), _MOST_FIELDS) + 1):
            for fields in itertools.combinations(by_field.values(), count):
                yield from itertools.product(*fields)


def width_proposals(path: Path, leaves: Mapping[Path, int], plan: Plan) -> list[Override]:
    """Overrides for a module's integer fields that equal something that shrinks below it.

    Args:
      path: the module's path.
      leaves: its integer fields by their path inside the module.
      plan: what shrinks.
    """
    shrinking = shrinking_sizes(path, plan)
    return [
        Override(path, field, size)
        for field, value in leaves.items()
        for size in shrinking.get(int(value), ())
    ]


def shrinking_sizes(path: Path, plan: Plan) -> dict[int, list[int]]:
    """Sizes that shrink in the module at ``path``, with their new ones.

    These are the lengths of axes, the sizes of spaces, and what lies between: heads in groups that
    share keys are a multiple of the groups, and a divisor of the axis of all their dimensions.
    """
    sizes: dict[int, dict[int, Any]] = {}
    arrays = [array for array in plan.arrays if array.cuts and _lies_in(array.path, path)]
    for array in arrays:
        for _, cut in array.cuts:
            sizes.setdefault(cut.size, {})[cut.count] = None
    for space in plan.spaces:
        if not space.units.whole:
            sizes.setdefault(space.units.size, {})[space.units.count] = None
    for cut in {cut: None for array in arrays for _, cut in array.cuts}:
        for full, slim in _between(cut, plan):
            sizes.setdefault(full, {})[slim] = None
    return {full: list(slim) for full, slim in sizes.items()}


def _between(cut: Cut, plan: Plan) -> Iterator[tuple[int, int]]:
    """Multiples of a space's size that divide the length of an axis cut in the same proportion."""
    for units in {space.units: None for space in plan.spaces if not space.units.whole}:
        if cut.count * units.size == units.count * cut.size:
            for times in range(2, cut.size // units.size):
                if cut.size % (times * units.size) == 0:
                    yield times * units.size, times * units.count


def _lies_in(array: Path, module: Path) -> bool:
    """Whether an array is in the module's subtree, below any collection's name."""
    return module in (array[: len(module)], array[1 : 1 + len(module)])
