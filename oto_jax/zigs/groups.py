"""From atoms to `ZIGs`: roles, the proof, disjoint groups, names, and the reasons for the rest."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from oto_jax.zigs import dims as d
from oto_jax.zigs.dims import Atom, Dim
from oto_jax.zigs.partition import (
    Blocked,
    Layer,
    Leaf,
    Member,
    Path,
    Run,
    Space,
    ZIGs,
    format_path,
)
from oto_jax.zigs.program import Body, Value
from oto_jax.zigs.proof.prove import prove
from oto_jax.zigs.roles import Axis, Roles, find_roles

Attention = Literal["heads", "head_dim"]
BY_NARROW = "; exact through oto_jax.narrow: find_zigs(..., narrow_only=True)"


@dataclasses.dataclass(frozen=True)
class Variable:
    """An array that the model is given: a parameter, or a buffer such as a running mean."""

    path: Path
    value: Value
    is_parameter: bool

    @property
    def leaf(self) -> Leaf:
        return Leaf(self.path, self.value.shape, str(self.value.dtype))


@dataclasses.dataclass(frozen=True)
class Options:
    """What the caller of `find_zigs` asked for."""

    attention: Attention = "heads"
    unprunable: Callable[[Path], bool] = lambda path: False
    narrow_only: bool = False
    rebuilds: bool = False


def find_groups(
    body: Body, variables: Sequence[Variable], prefix: Path, treedef: Any, options: Options
) -> ZIGs:
    """The zero-invariant groups of an opened program, see the module's docstring."""
    parameters = [(i, v.value) for i, v in enumerate(variables) if v.is_parameter]
    buffers = [v.value for v in variables if not v.is_parameter]
    roles = find_roles(body, parameters, buffers)
    _keep_unprunable(variables, roles, options)
    reasons = _choose(body, variables, roles, options)
    spaces = _spaces(variables, roles, reasons, prefix)
    return ZIGs(
        spaces=spaces,
        blocked=tuple(_blocked(variables, roles, reasons, spaces)),
        parameters=tuple(v.leaf for v in variables if v.is_parameter),
        prefix=prefix,
        treedef=treedef,
        layers=tuple(Layer(variables[number].path, axes) for number, axes in roles.layers),
    )


def _keep_unprunable(variables: Sequence[Variable], roles: Roles, options: Options) -> None:
    for number, axis in roles.producers:
        variable = variables[number]
        if options.unprunable(variable.path):
            name = format_path(variable.path)
            d.freeze(variable.value.dims[axis], d.told(f"{name} is unprunable"))


def _producing(variables: Sequence[Variable], roles: Roles) -> dict[Atom, list[Axis]]:
    """The axes that produce each atom that nothing froze, in the order of the program."""
    found: dict[Atom, list[Axis]] = {}
    for number, axis in roles.producers:
        for atom in dict.fromkeys(d.atoms(variables[number].value.dims[axis])):
            if atom.reason is None and atom.size > 1:
                found.setdefault(atom, []).append((number, axis))
    return found


def _choose(
    body: Body, variables: Sequence[Variable], roles: Roles, options: Options
) -> dict[Atom, d.Reason | None]:
    """For each candidate: None when its units become groups, else why they do not."""
    producing = _producing(variables, roles)
    zeroed = [(variables[number].value, axis) for number, axis in roles.producers]
    proof = prove(body, zeroed, producing)
    obstacles = dict(proof.blocked)
    if not options.narrow_only:
        _merge(obstacles, proof.statistics, BY_NARROW)
    if options.rebuilds and not options.narrow_only:
        _merge(obstacles, proof.indexed, BY_NARROW)
    reasons: dict[Atom, d.Reason | None] = {atom: obstacles.get(atom) for atom in producing}
    _make_disjoint(reasons, producing, variables, roles, options)
    return reasons


def _merge(obstacles: dict[Atom, d.Reason], more: Mapping[Atom, d.Reason], remark: str) -> None:
    for atom, reason in more.items():
        obstacles.setdefault(atom, functools.partial(_remarked, reason, remark))


def _remarked(reason: d.Reason, remark: str) -> tuple[str, str | None]:
    text, line = reason()
    return text + remark, line


def _make_disjoint(
    reasons: dict[Atom, d.Reason | None],
    producing: Mapping[Atom, Sequence[Axis]],
    variables: Sequence[Variable],
    roles: Roles,
    options: Options,
) -> None:
    """Where the groups of two atoms would share entries, let one of them give way."""
    beaten_by: dict[Atom, list[Atom]] = {}
    for outer, inner in _overlaps(reasons, producing, variables):
        if outer is inner:
            reasons[outer] = d.told("an entry of a parameter would belong to two groups")
            continue
        inner_wins = options.attention == "head_dim" and outer in roles.heads
        winner, loser = (inner, outer) if inner_wins else (outer, inner)
        beaten_by.setdefault(loser, []).append(winner)
    waiting = [atom for atom in reasons if reasons[atom] is None and atom in beaten_by]
    while waiting:
        # Whoever can only lose to atoms that are settled is settled next.
        settled = [a for a in waiting if not set(beaten_by[a]) & set(waiting)] or waiting[:1]
        for atom in settled:
            if any(reasons[winner] is None for winner in beaten_by[atom] if winner not in waiting):
                reasons[atom] = _overlap_reason(atom, roles, options)
        waiting = [atom for atom in waiting if atom not in settled]


def _overlap_reason(atom: Atom, roles: Roles, options: Options) -> d.Reason:
    text = "its groups would share entries with those of an outer axis"
    if atom in roles.heads:
        text = "heads and head dimensions overlap; attention='heads' chooses the heads"
    elif options.attention == "heads" and roles.heads:
        text += "; for attention, attention='head_dim' chooses the head dimensions"
    return d.told(text)


def _overlaps(
    reasons: Mapping[Atom, d.Reason | None],
    producing: Mapping[Atom, Sequence[Axis]],
    variables: Sequence[Variable],
) -> Iterator[tuple[Atom, Atom]]:
    """(outer, inner) pairs of atoms whose groups share entries of some parameter."""
    by_parameter: dict[int, set[int]] = {}
    for atom, axes in producing.items():
        if reasons[atom] is None:
            for number, axis in axes:
                by_parameter.setdefault(number, set()).add(axis)
    for number, axes_of in by_parameter.items():
        dims = variables[number].value.dims
        live = {axis: _live(dims[axis], reasons) for axis in sorted(axes_of)}
        ordered = sorted(live)
        for k, axis in enumerate(ordered):
            yield from _nested(dims[axis], reasons)
            for other in ordered[k + 1 :]:
                yield from ((a, b) for a in live[axis] for b in live[other])


def _live(dim: Dim, reasons: Mapping[Atom, d.Reason | None]) -> list[Atom]:
    return [a for a in dict.fromkeys(d.atoms(dim)) if a in reasons and reasons[a] is None]


def _nested(dim: Dim, reasons: Mapping[Atom, d.Reason | None]) -> Iterator[tuple[Atom, Atom]]:
    """Pairs of live atoms that share positions of one axis: factors of one product."""
    dim = d.resolve(dim)
    if isinstance(dim, Atom):
        return
    for k, part in enumerate(dim.parts):
        yield from _nested(part, reasons)
        if isinstance(dim, d.Product):
            for other in dim.parts[k + 1 :]:
                yield from ((a, b) for a in _live(part, reasons) for b in _live(other, reasons))


def _spaces(
    variables: Sequence[Variable],
    roles: Roles,
    reasons: Mapping[Atom, d.Reason | None],
    prefix: Path,
) -> tuple[Space, ...]:
    chosen = [atom for atom, reason in reasons.items() if reason is None]
    members: dict[Atom, list[Member]] = {atom: [] for atom in chosen}
    dependents: dict[Atom, list[Member]] = {atom: [] for atom in chosen}
    order = {axis: k for k, axis in enumerate(roles.producers)}
    axes = [
        (number, axis) for number, v in enumerate(variables) for axis in range(len(v.value.shape))
    ]
    for number, axis in sorted(axes, key=lambda pair: order.get(pair, len(order))):
        kind = members if (number, axis) in order else dependents
        for atom, found in _runs_by_atom(variables[number].value.dims[axis]).items():
            if atom in members:
                kind[atom].append(Member(variables[number].path, axis, found))
    spaces: list[Space] = []
    names = _names([members[atom] for atom in chosen], prefix)
    start = 0
    for atom, name in zip(chosen, names, strict=True):
        spaces.append(Space(name, atom.size, start, tuple(members[atom]), tuple(dependents[atom])))
        start += atom.size
    return tuple(spaces)


def _runs_by_atom(dim: Dim) -> dict[Atom, tuple[Run, ...]]:
    found: dict[Atom, list[Run]] = {}
    for atom, run in d.runs(dim):
        found.setdefault(atom, []).append(run)
    return {atom: tuple(runs) for atom, runs in found.items()}


def _names(members: Sequence[Sequence[Member]], prefix: Path) -> list[str]:
    """A short unique name for each space: the module, or the parameter, of its first member."""
    paths = [format_path(group[0].path[len(prefix) :]) for group in members]
    short = [path.rsplit("/", 1)[0] for path in paths]
    names = [
        path if short.count(name) > 1 and paths.count(path) == 1 else name
        for name, path in zip(short, paths, strict=True)
    ]
    seen: dict[str, int] = {}
    for k, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names[k] = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return names


def _blocked(
    variables: Sequence[Variable],
    roles: Roles,
    reasons: Mapping[Atom, d.Reason | None],
    spaces: Sequence[Space],
) -> Iterator[Blocked]:
    """Every axis of a parameter that no space runs along."""
    covered = {(member.path, member.axis) for space in spaces for member in space.axes}
    for variable in variables:
        if not variable.is_parameter:
            continue
        for axis, dim in enumerate(variable.value.dims):
            if dim.size > 1 and (variable.path, axis) not in covered:
                text, line = _why(dim, reasons)
                yield Blocked(variable.path, axis, dim.size, text, line)


def _why(dim: Dim, reasons: Mapping[Atom, d.Reason | None]) -> tuple[str, str | None]:
    found = d.atoms(dim)
    # The units that were nearest to being pruned tell most.
    for atom in found:
        reason = reasons.get(atom)
        if atom in reasons and reason is not None:
            return reason()
    for atom in found:
        if atom.reason is not None:
            return atom.reason()
    if not found:
        return "its positions are used one by one", None
    return "no parameter produces it: it is fed by inputs alone, or never used", None
