"""Which integer of a model's configuration sizes which space: each is nudged, and the ZIGs tell.

Some widths reach no layer as they are: a residual stream as wide as the sum of two fields, a
shortcut that pads with so many zero channels. Where each space's size is one field, growing every
field by an amount of its own makes each space grow by the amount of its field, and one more
abstract trace reads them all off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from oto_jax.prune.configuration import int_leaves, replaced
from oto_jax.prune.plan import Override, Plan
from oto_jax.zigs.call import Call
from oto_jax.zigs.find import find_zigs
from oto_jax.zigs.partition import Path


def probed_configuration(model: nn.Module, plan: Plan, call: Call) -> tuple[Override, ...] | None:
    """New values for the integers of a configuration, each of which sizes one space.

    Args:
      model: the full model.
      plan: what is cut.
      call: what ``model.apply`` is called with after the variables.

    Returns:
      One override for each integer whose space shrinks, or None where the model does not run with
      other integers, or a space that shrinks is not the size of one of them. Whether the slim model
      is right is for the caller to check.
    """
    leaves = dict(int_leaves(model))
    # So large and so close to each other that no sum of two is one of them.
    steps = {path: len(leaves) + number for number, path in enumerate(leaves, 1)}
    try:
        sizes = _space_sizes(model, call)
        nudged = replaced(model, {path: leaves[path] + step for path, step in steps.items()})
        grown = _space_sizes(nudged, call)
    except Exception:  # Whatever a user's module raises where an integer is no width.
        return None
    by_step = {step: path for path, step in steps.items()}
    found: dict[Path, int] = {}
    for space in plan.spaces:
        if space.units.whole:
            continue
        leaf = by_step.get(grown.get(space.name, 0) - sizes.get(space.name, 0))
        if leaf is None or sizes[space.name] != space.units.size:
            return None
        if found.setdefault(leaf, space.units.count) != space.units.count:
            return None
    return tuple(Override((), leaf, size) for leaf, size in found.items())


def _space_sizes(model: nn.Module, call: Call) -> Mapping[str, int]:
    args, kwargs = call.filled(call.arrays())
    variables = jax.eval_shape(lambda *arrays: _initial(model, call, arrays), *call.arrays())
    zigs = find_zigs(model, variables, *args, **kwargs)
    return {space.name: space.size for space in zigs.spaces}


def _initial(model: nn.Module, call: Call, arrays: Any) -> Any:
    args, kwargs = call.filled(arrays)
    rngs = {"params": jax.random.key(0), **(kwargs.pop("rngs", None) or {})}
    kwargs.pop("mutable", None)
    return model.init(rngs, *args, **kwargs)
