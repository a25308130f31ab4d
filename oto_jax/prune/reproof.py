"""Whether a cut is safe in the program at hand, which need not be the one that was searched.

A function may take another path for another static argument or another length: there a group can
matter, though it is zero. So the program that is evaluated at the surviving widths is proven anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from oto_jax.errors import ZIGMismatchError
from oto_jax.prune.survivors import Survivors
from oto_jax.zigs import dims as d
from oto_jax.zigs.partition import Path, format_path, key_path
from oto_jax.zigs.program import Body, Value
from oto_jax.zigs.proof.prove import prove


def check_still_safe(
    body: Body,
    variables: Mapping[Path, Value],
    slim_shapes: Mapping[Path, tuple[int, ...]],
    zeroed: Iterable[tuple[Path, int]],
    survivors: Survivors,
    outputs: Any,
) -> None:
    """Checks that what is cut is zero-invariant in this program, and no input or output.

    Args:
      body: the program, opened at full width; its inputs are the variables, then the rest.
      variables: those of its inputs that are variables of the model, by path.
      slim_shapes: the shapes that the plan leaves of them.
      zeroed: path and axis of everything whose cut units are zero.
      survivors: what is cut.
      outputs: shapes of the outputs, in their structure.

    Raises:
      ZIGMismatchError: if it is not safe, with the reason and the model's line.
    """
    cut = survivors.cut_atoms()
    for atom in cut:
        if atom.reason is not None:
            raise _unsafe(atom.reason)
    for path, value in variables.items():
        if survivors.shape(value) != slim_shapes[path]:
            raise _unsafe(d.told(f"it is an axis of {format_path(path)!r}, which was not cut"))
    for number, value in enumerate(body.ins[len(variables) :]):
        if survivors.is_cut(value):
            raise _unsafe(d.told(f"it is an axis of input {number}"))
    _check_outputs(body.outs, variables, survivors, outputs)
    proof = prove(body, ((variables[path], axis) for path, axis in zeroed), cut)
    for reason in proof.blocked.values():
        raise _unsafe(reason)


def check_derivative(body: Body, survivors: Survivors, _outputs: Any) -> None:
    """Checks that a function's own derivative treats every unit by itself.

    What its arguments are at cut units is not known here, so nothing may be summed over them.

    Args:
      body: the derivative's program, opened at full width.
      survivors: what is cut.

    Raises:
      ZIGMismatchError: if units that were cut would count, with the reason.
    """
    cut = survivors.cut_atoms()
    reasons = [atom.reason for atom in cut if atom.reason is not None]
    reasons += prove(body, (), cut).blocked.values()
    if reasons:
        text, line = reasons[0]()
        where = f" ({line})" if line else ""
        raise ZIGMismatchError(
            "a function's own derivative (jax.custom_jvp) mixes units of which some were cut, so"
            f" that the narrow function would have another gradient: {text}{where}"
        )


def _check_outputs(
    outs: Sequence[Value], variables: Mapping[Path, Value], survivors: Survivors, outputs: Any
) -> None:
    """An updated variable comes out as narrow as it went in; everything else stays whole."""
    paths = [key_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(outputs)]
    updated = _updated(dict(zip(paths, outs, strict=True)), variables)
    for path, value in zip(paths, outs, strict=True):
        if survivors.is_cut(value) and path not in updated:
            raise _unsafe(d.told(f"it is an axis of the output {format_path(path)!r}"))


def _updated(outs: Mapping[Path, Value], variables: Mapping[Path, Value]) -> set[Path]:
    """The outputs that are variables, in a place that holds all of their collection.

    A single output may have a variable's name and shape by chance.
    """
    found: dict[Path, set[Path]] = {}
    for path, value in outs.items():
        for start in range(len(path)):
            old = variables.get(path[start:])
            if old is not None and old.shape == value.shape:
                found.setdefault(path[:start], set()).add(path[start:])
    return {
        (*place, *path)
        for place, held in found.items()
        for path in held
        if _collection(path, variables) <= held
    }


def _collection(path: Path, variables: Mapping[Path, Value]) -> set[Path]:
    """All variables below the first key of a path; all there are, if it is the only one."""
    return {other for other in variables if len(path) == 1 or other[0] == path[0]}


def _unsafe(reason: d.Reason) -> ZIGMismatchError:
    text, line = reason()
    where = f" ({line})" if line else ""
    return ZIGMismatchError(
        f"with these arguments the function is another program, in which an axis that was cut has"
        f" to stay whole: {text}{where}; find the ZIGs with arguments like these"
    )
