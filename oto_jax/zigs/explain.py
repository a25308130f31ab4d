"""`ZIGs` in words."""

from __future__ import annotations

from collections.abc import Iterator

from oto_jax.errors import ZIGMismatchError
from oto_jax.zigs.partition import Blocked, Member, Space, ZIGs, format_path

SHOWN = 40


def summary(zigs: ZIGs) -> str:
    """A table of the spaces and, by reason, of what is blocked."""
    total = sum(leaf.size for leaf in zigs.parameters)
    grouped = sum(_grouped_entries(zigs))
    share = f"{100 * grouped / total:.1f} %" if total else "none"
    lines = [
        f"ZIGs: {zigs.num_groups} groups in {len(zigs.spaces)} spaces, holding {share}"
        f" of {total:,} parameters"
    ]
    if zigs.spaces:
        width = max(len(space.name) for space in zigs.spaces[:SHOWN])
        lines.append(f"  {'space':<{width}}  {'size':>6}  {'groups':>13}  members  dependents")
        lines += [_space_line(space, width) for space in zigs.spaces[:SHOWN]]
    if len(zigs.spaces) > SHOWN:
        lines.append(f"  ... and {len(zigs.spaces) - SHOWN} more spaces")
    lines += _blocked_lines(zigs)
    return "\n".join(lines)


def _grouped_entries(zigs: ZIGs) -> Iterator[int]:
    for leaf in zigs.parameters:
        pairs = zigs.members_by_path.get(leaf.path, ())
        positions = sum(run.positions().size for _, member in pairs for run in member.runs)
        if pairs:
            yield positions * (leaf.size // leaf.shape[pairs[0][1].axis])


def _space_line(space: Space, width: int) -> str:
    groups = f"{space.start}-{space.start + space.size - 1}"
    return (
        f"  {space.name:<{width}}  {space.size:>6}  {groups:>13}"
        f"  {len(space.members):>7}  {len(space.dependents):>10}"
    )


def _blocked_lines(zigs: ZIGs) -> Iterator[str]:
    by_reason: dict[str, list[Blocked]] = {}
    for row in zigs.blocked:
        by_reason.setdefault(_reason(row), []).append(row)
    if by_reason:
        yield f"  blocked: {len(zigs.blocked)} axes"
    for reason, rows in list(by_reason.items())[:SHOWN]:
        first = f"{format_path(rows[0].path)} axis {rows[0].axis}"
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        yield f"    {first}{more}: {reason}"


def _reason(row: Blocked) -> str:
    return f"{row.reason} ({row.source})" if row.source else row.reason


def explain(zigs: ZIGs, path: str) -> str:
    """What happens to each axis of one parameter.

    Raises:
      ZIGMismatchError: if there is no such parameter.
    """
    wanted = tuple(path.strip("/").split("/"))
    known = {leaf.path: leaf for leaf in zigs.parameters}
    full = wanted if wanted in known else zigs.prefix + wanted
    if full not in known:
        raise ZIGMismatchError(
            f"no parameter {path!r}; the parameters are {', '.join(map(format_path, known))}"
        )
    leaf = known[full]
    lines = [f"{format_path(full)} {leaf.dtype}{list(leaf.shape)}"]
    for axis, size in enumerate(leaf.shape):
        lines += [f"  axis {axis} ({size}): {text}" for text in _axis_lines(zigs, full, axis, size)]
    return "\n".join(lines)


def _axis_lines(zigs: ZIGs, path: tuple[str, ...], axis: int, size: int) -> Iterator[str]:
    found = False
    for space in zigs.spaces:
        for member in space.members:
            if (member.path, member.axis) == (path, axis):
                found = True
                yield f"its slices are groups of space {space.name!r}{_where(member)}"
        for member in space.dependents:
            if (member.path, member.axis) == (path, axis):
                found = True
                yield f"is cut along with space {space.name!r}{_where(member)}, need not be zero"
    for row in zigs.blocked:
        if (row.path, row.axis) == (path, axis):
            found = True
            yield f"cannot be pruned: {_reason(row)}"
    if not found:
        yield "has one position" if size == 1 else "is left whole"


def _where(member: Member) -> str:
    (run, *others) = member.runs
    if others:
        return f", {len(member.runs)} times over"
    rest = [n for k, n in enumerate(run.shape) if k != run.unit_dim]
    return f", {' x '.join(map(str, rest))} positions a unit" if rest else ""
