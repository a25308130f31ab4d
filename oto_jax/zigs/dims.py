"""Dimensions: what the positions along one axis stand for, and their unification.

Every axis of every value in a traced program has a dimension. It is an *atom*, a *product* (what
reshape merges, row-major) or a *concatenation* of dimensions. Whenever a primitive demands that two
axes agree, their dimensions are unified; an atom that meets a product or a concatenation is refined
everywhere at once. What remains at the end are the classes of axes that have to be cut together,
together with the places of their units in every axis.

An atom is *frozen*, with a reason, when its positions must all stay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

from oto_jax.zigs.partition import Run

Reason = Callable[[], tuple[str, str | None]]
"""Yields (reason, source line); called only for what is reported."""


def told(text: str, line: str | None = None) -> Reason:
    """A reason known beforehand."""
    return lambda: (text, line)


class Atom:
    """A set of positions that nothing has taken apart so far; `bound` once something has."""

    __slots__ = ("bound", "number", "reason", "size")
    _numbers = itertools.count()

    def __init__(self, size: int, reason: Reason | None = None) -> None:
        self.size = size
        self.reason = reason
        self.bound: Dim | None = None
        self.number = next(Atom._numbers)

    def __repr__(self) -> str:
        return f"a{self.number}[{self.size}]" + ("!" if self.reason else "")


class Product:
    """Row-major product; the empty product is the axis of size 1, which has no units."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: tuple[Dim, ...]) -> None:
        self.parts = parts
        self.size: int = math.prod([part.size for part in parts])

    def __repr__(self) -> str:
        return "(" + " * ".join(map(repr, self.parts)) + ")"


class Concat:
    """Concatenation, in order."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: tuple[Dim, ...]) -> None:
        self.parts = parts
        self.size: int = sum(part.size for part in parts)

    def __repr__(self) -> str:
        return "(" + " + ".join(map(repr, self.parts)) + ")"


Dim = Atom | Product | Concat
Dims = tuple[Dim, ...]

ONE = Product(())


def new_dim(size: int, reason: Reason | None = None) -> Dim:
    """A fresh dimension of the given size."""
    return ONE if size == 1 else Atom(size, reason)


def new_dims(shape: Iterable[int], reason: Reason | None = None) -> Dims:
    """A fresh dimension for every axis of a shape."""
    return tuple(ONE if size == 1 else Atom(size, reason) for size in shape)


def resolve(dim: Dim) -> Dim:
    """What a dimension is known to be now: an unbound atom, or a flat product or concatenation."""
    if isinstance(dim, Atom):
        if dim.bound is None:
            return dim
        dim.bound = resolve(dim.bound)
        return dim.bound
    if not dim.parts:
        return dim
    if isinstance(dim, Product):
        return product(dim.parts)
    return concat(dim.parts)


def product(parts: Iterable[Dim]) -> Dim:
    """The flat product of dimensions."""
    flat: list[Dim] = []
    for part in parts:
        part = resolve(part)
        if isinstance(part, Product):
            flat.extend(part.parts)
        else:
            flat.append(part)
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def concat(parts: Iterable[Dim]) -> Dim:
    """The flat concatenation of dimensions."""
    flat: list[Dim] = []
    for part in parts:
        part = resolve(part)
        if isinstance(part, Concat):
            flat.extend(part.parts)
        elif part.size:
            flat.append(part)
    if not flat:
        return Atom(0)
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def atoms(dim: Dim) -> list[Atom]:
    """The atoms of a dimension, in order; an atom that occurs twice is listed twice."""
    dim = resolve(dim)
    if isinstance(dim, Atom):
        return [dim]
    return [atom for part in dim.parts for atom in atoms(part)]


def freeze(dim: Dim, reason: Reason) -> None:
    """Keep every position of a dimension. The first reason given is the one reported."""
    for atom in atoms(dim):
        if atom.reason is None:
            atom.reason = reason


def unify(left: Dim, right: Dim, reason: Reason) -> None:
    """Make two dimensions of equal size the same.

    Where their structures cannot be aligned (a boundary inside a factor), both are frozen for
    ``reason``.
    """
    left, right = resolve(left), resolve(right)
    if left is right:
        return
    if left.size != right.size:
        raise AssertionError(f"cannot unify {left} with {right}")
    if isinstance(left, Atom):
        _bind(left, right)
    elif isinstance(right, Atom):
        _bind(right, left)
    elif isinstance(left, Product) and isinstance(right, Product):
        _unify_products(left, right, reason)
    else:
        _unify_concats(left, right, reason)


def _bind(atom: Atom, dim: Dim) -> None:
    if atom.reason is not None:
        freeze(dim, atom.reason)
    elif isinstance(dim, Atom) and dim.number > atom.number:
        # The older atom stays: names and order then follow the program, not the unifications.
        atom, dim = dim, atom
        if atom.reason is not None:
            freeze(dim, atom.reason)
    atom.bound = dim


def _freeze_both(left: Dim, right: Dim, reason: Reason) -> None:
    freeze(left, reason)
    freeze(right, reason)


def _unify_products(left: Product, right: Product, reason: Reason) -> None:
    lefts, rights = list(left.parts), list(right.parts)
    while lefts and rights:
        a, b = resolve(lefts.pop()), resolve(rights.pop())
        if a.size < b.size:
            a, b, lefts, rights = b, a, rights, lefts
        if a.size == b.size:
            unify(a, b, reason)
            continue
        factored = factor_right(a, b.size, reason)
        if factored is None:
            _freeze_both(left, right, reason)
            return
        rest, last = factored
        unify(last, b, reason)
        lefts.append(rest)


def _unify_concats(left: Dim, right: Dim, reason: Reason) -> None:
    lefts, rights = [left], [right]
    while lefts and rights:
        a, b = _pop_first(lefts), _pop_first(rights)
        if a.size < b.size:
            a, b, lefts, rights = b, a, rights, lefts
        if a.size == b.size:
            unify(a, b, reason)
            continue
        pieces = split(a, b.size)
        if pieces is None:
            _freeze_both(left, right, reason)
            return
        unify(pieces[0], b, reason)
        lefts.insert(0, pieces[1])


def _pop_first(dims: list[Dim]) -> Dim:
    """Take the first piece off a list of concatenated dimensions."""
    first = resolve(dims.pop(0))
    if isinstance(first, Concat):
        dims[:0] = first.parts[1:]
        return resolve(first.parts[0])
    return first


def factor_right(dim: Dim, size: int, reason: Reason) -> tuple[Dim, Dim] | None:
    """Write ``dim`` as ``rest * last`` with ``last`` of the given size, refining atoms."""
    dim = resolve(dim)
    if size == 1:
        return dim, ONE
    if size == dim.size:
        return ONE, dim
    if dim.size % size:
        return None
    if isinstance(dim, Atom):
        rest, last = new_dim(dim.size // size, dim.reason), new_dim(size, dim.reason)
        dim.bound = product((rest, last))
        return rest, last
    if isinstance(dim, Concat):
        return _factor_concat(dim, size, reason)
    *others, last = dim.parts
    if last.size >= size:
        inner = factor_right(last, size, reason)
        return inner and (product((*others, inner[0])), inner[1])
    if size % last.size:
        return None
    outer = factor_right(product(others), size // last.size, reason)
    return outer and (outer[0], product((outer[1], last)))


def _factor_concat(dim: Concat, size: int, reason: Reason) -> tuple[Dim, Dim] | None:
    if any(part.size % size for part in dim.parts):
        return None
    rests: list[Dim] = []
    last: Dim | None = None
    for part in dim.parts:
        factored = factor_right(part, size, reason)
        if factored is None:
            return None
        rests.append(factored[0])
        if last is not None:
            unify(last, factored[1], reason)
        last = factored[1]
    assert last is not None
    return concat(rests), last


def split(dim: Dim, size: int) -> tuple[Dim, Dim] | None:
    """Write ``dim`` as ``first + second`` with ``first`` of the given size, refining atoms."""
    dim = resolve(dim)
    if size == 0:
        return Atom(0), dim
    if size == dim.size:
        return dim, Atom(0)
    if isinstance(dim, Atom):
        first, second = new_dim(size, dim.reason), new_dim(dim.size - size, dim.reason)
        dim.bound = Concat((first, second))
        return first, second
    if isinstance(dim, Concat):
        return _split_concat(dim, size)
    outer, *inner = dim.parts
    rest = product(inner)
    if size % rest.size:
        return None
    pieces = split(outer, size // rest.size)
    return pieces and (product((pieces[0], rest)), product((pieces[1], rest)))


def _split_concat(dim: Concat, size: int) -> tuple[Dim, Dim] | None:
    before: list[Dim] = []
    for index, part in enumerate(dim.parts):
        if size < part.size:
            pieces = split(part, size)
            if pieces is None:
                return None
            after = (pieces[1], *dim.parts[index + 1 :])
            return concat((*before, pieces[0])), concat(after)
        before.append(part)
        size -= part.size
        if size == 0:
            return concat(before), concat(dim.parts[index + 1 :])
    raise AssertionError(f"{size} lies outside {dim}")


def runs(dim: Dim) -> list[tuple[Atom, Run]]:
    """Where the units of each atom lie along an axis of this dimension."""
    return list(_runs(resolve(dim), 0, 1, (), ()))


def _runs(
    dim: Dim, offset: int, stride: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Iterable[tuple[Atom, Run]]:
    if isinstance(dim, Atom):
        # The outer counts come before the units, what lies inside one unit after them.
        yield dim, _ordered_run(offset, (*shape, dim.size), (*strides, stride), len(shape))
    elif isinstance(dim, Concat):
        for part in dim.parts:
            yield from _runs(part, offset, stride, shape, strides)
            offset += part.size * stride
    else:
        steps = [math.prod(p.size for p in dim.parts[i + 1 :]) for i in range(len(dim.parts))]
        for i, part in enumerate(dim.parts):
            others = [j for j in range(len(dim.parts)) if j != i]
            yield from _runs(
                part,
                offset,
                stride * steps[i],
                shape + tuple(dim.parts[j].size for j in others),
                strides + tuple(stride * steps[j] for j in others),
            )


def _ordered_run(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], unit_dim: int
) -> Run:
    """Sort the box by decreasing stride and merge what is contiguous and holds no unit."""
    order = sorted(range(len(shape)), key=lambda k: -strides[k])
    merged: list[tuple[int, int, bool]] = []
    for k in order:
        size, step, is_unit = shape[k], strides[k], k == unit_dim
        if merged and not is_unit and not merged[-1][2] and merged[-1][1] == size * step:
            merged[-1] = (merged[-1][0] * size, step, False)
        else:
            merged.append((size, step, is_unit))
    return Run(
        offset,
        tuple(size for size, _, _ in merged),
        tuple(step for _, step, _ in merged),
        [is_unit for _, _, is_unit in merged].index(True),
    )
