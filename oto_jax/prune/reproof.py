"""Whether a cut is safe in the program at hand, which need not be the one that was searched.

A function may take another path for another static argument or another length: there a group can
matter, though it is zero. So the program that is evaluated at the surviving widths is proven anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    variables: dict[Path, Value],
    zeroed: Iterable[tuple[Path, int]],
    survivors: Survivors,
    outputs: Any,
) -> None:
    """Checks that what is cut is zero-invariant in this program, and no input or output.

    Args:
      body: the program, opened at full width; its inputs are the variables, then the rest.
      variables: those of its inputs that are variables of the model, by path.
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
    for number, value in enumerate(body.ins[len(variables) :]):
        if survivors.is_cut(value):
            raise _unsafe(d.told(f"it is an axis of input {number}"))
    _check_outputs(body.outs, variables, survivors, outputs)
    proof = prove(body, ((variables[path], axis) for path, axis in zeroed), cut)
    for reason in proof.blocked.values():
        raise _unsafe(reason)


def _check_outputs(
    outs: Sequence[Value], variables: dict[Path, Value], survivors: Survivors, outputs: Any
) -> None:
    """An updated variable comes out as narrow as it went in; everything else stays whole."""
    paths = [key_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(outputs)]
    for path, value in zip(paths, outs, strict=True):
        if survivors.is_cut(value) and not _is_updated(path, value, variables):
            raise _unsafe(d.told(f"it is an axis of the output {format_path(path)!r}"))


def _is_updated(path: Path, value: Value, variables: dict[Path, Value]) -> bool:
    tails = (variables.get(path[start:]) for start in range(len(path)))
    return any(tail is not None and tail.shape == value.shape for tail in tails)


def _unsafe(reason: d.Reason) -> ZIGMismatchError:
    text, line = reason()
    where = f" ({line})" if line else ""
    return ZIGMismatchError(
        f"with these arguments the function is another program, in which an axis that was cut has"
        f" to stay whole: {text}{where}; find the ZIGs with arguments like these"
    )
