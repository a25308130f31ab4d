"""`prune`: from zero groups to a narrower model with the same outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

from oto_jax.errors import UnprunableModelError, ZIGMismatchError
from oto_jax.prune.framework import framework_of
from oto_jax.prune.plan import Plan, make_plan
from oto_jax.zigs.partition import ZIGs


@dataclasses.dataclass(frozen=True, repr=False)
class Pruned:
    """A slim model, its variables, and what was kept of the full one.

    Attributes:
      model: an ordinary Flax module: it initialises, applies, tabulates and trains.
      variables: its variables; for NNX the model's state.
      plan: what was kept, for `shrink`, `save` and `load`.

    Example:
      >>> import jax, jax.numpy as jnp, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> x = jnp.ones((1, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> slim = oto_jax.prune(model, variables, oto_jax.find_zigs(model, variables, x))
      >>> slim
      Pruned Sequential
      Plan: 8 of 8 groups stay
        layers_0       8 -> 8
      >>> slim.model.apply(slim.variables, x).shape
      (1, 3)
    """

    model: Any
    variables: Any
    plan: Plan

    def __repr__(self) -> str:
        return f"Pruned {type(self.model).__name__}\n{self.plan!r}"


def prune(model: Any, variables: Any, zigs: ZIGs | None = None, *, round_to: int = 1) -> Pruned:
    """Cuts every zero group out of a Flax model: same outputs, smaller and faster.

    Zero-invariance (Chen et al. 2021, Section 3.1) makes the cut exact: a zero group contributes
    nothing, so the slim model computes what the full one does, up to the order of sums. Before it
    is handed out, its shapes are checked on the call that ``zigs`` were found with, and its
    outputs on random input.

    A model whose widths are its configuration comes back as the same class with a new
    configuration. Any other Linen model comes back as a subclass of its class that overrides the
    widths of its layers by path; every method works as before. An NNX model is copied.

    Args:
      model: a Flax Linen or NNX module.
      variables: its variables with zero groups. An NNX model holds its own, and may be given as
        ``prune(model, zigs)``.
      zigs: what `find_zigs` found on this model.
      round_to: keep some zero units so that each width is a multiple of this, for the hardware.

    Returns:
      The slim model. At least one unit of each space stays.

    Raises:
      UnprunableModelError: if there are no groups, or a module cannot be rebuilt; the message
        names it.
      ZIGMismatchError: if ``variables`` are not those that ``zigs`` were found on.
      NonFiniteParametersError: if a parameter holds NaN or infinity.

    Example:
      >>> import jax, jax.numpy as jnp, oto_jax, flax.linen as nn
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> x = jnp.ones((1, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> zigs = oto_jax.find_zigs(model, variables, x)
      >>> gone = jax.tree.map(lambda numbers: numbers >= 6, zigs.masks)
      >>> zero = jax.tree.map(lambda p, m: jnp.where(m, 0, p), variables["params"], gone)
      >>> slim = oto_jax.prune(model, {"params": zero}, zigs)
      >>> slim.model.layers[0].features
      6
      >>> slim.variables["params"]["layers_2"]["kernel"].shape
      (6, 3)
    """
    if zigs is None:
        model, variables, zigs = model, None, variables
    if not isinstance(zigs, ZIGs):
        raise ZIGMismatchError("prune needs the ZIGs: prune(model, variables, find_zigs(...))")
    match framework_of(model):
        case "linen":
            from oto_jax.prune import linen

            plan = make_plan(variables, zigs, round_to=round_to)
            return Pruned(*linen.rebuild(model, variables, plan, recorded_call(zigs)))
        case "nnx":
            from oto_jax.prune import nnx

            full = nnx.filled(model, variables)
            plan = make_plan(nnx.state_of(full), zigs, round_to=round_to)
            copy, plan = nnx.rebuild(full, plan, recorded_call(zigs))
            return Pruned(copy, nnx.state_of(copy), plan)
    raise UnprunableModelError(
        f"prune rebuilds Flax modules; for a {type(model).__name__} use"
        " oto_jax.narrow(fn, variables, zigs)"
    )


def recorded_call(zigs: ZIGs) -> Any:
    """The call that the ZIGs were found with.

    Raises:
      ZIGMismatchError: if they hold none.
    """
    if zigs.call is None:
        raise ZIGMismatchError(
            "the ZIGs hold no call to check the slim model on; find them with oto_jax.find_zigs"
        )
    return zigs.call
