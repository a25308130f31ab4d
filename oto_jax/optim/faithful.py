"""Which groups become zero, as the paper has it: `FaithfulRule`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from oto_jax.optim.half_space import (
    Trial,
    crosses,
    deepest,
    half_space_ratios,
    initial_epsilon,
    kept_part,
    last_ratios,
    most_zero_groups,
    next_epsilon,
)
from oto_jax.optim.hyperparameters import Epsilon
from oto_jax.optim.norms import GroupVectors, cut, of_kept_spaces
from oto_jax.zigs.partition import ZIGs


class HalfSpaceState(NamedTuple):
    """State of the projection in faithful mode: counters and vectors over groups.

    Attributes:
      step: steps so far.
      zero: per space, which groups the last step left at zero.
      ratio: per space, each group's half-space ratio at the last step at which it was not zero.
      epsilon: of the spaces with an adaptive epsilon, its value.
      groups: of the spaces with an upper sparsity below 1, how many groups they had at first.
    """

    step: jax.Array
    zero: GroupVectors
    ratio: GroupVectors
    epsilon: dict[str, jax.Array]
    groups: dict[str, jax.Array]

    def shrink(self, plan: Any) -> HalfSpaceState:
        """The state of the slim model that `oto_jax.prune` cuts along ``plan``."""
        return self._replace(
            zero=cut(self.zero, plan),
            ratio=cut(self.ratio, plan),
            epsilon=of_kept_spaces(self.epsilon, plan),
            groups=of_kept_spaces(self.groups, plan),
        )


@dataclasses.dataclass(frozen=True)
class FaithfulRule:
    """The paper's rule, per space.

    From step ``start_step`` on, a non-zero group whose trial leaves its half-space becomes zero,
    and groups that are zero stay zero. A space never gets more zero groups through the test than
    its upper sparsity allows: those deepest outside go first.

    Attributes:
      zigs: the groups.
      epsilon: by space.
      upper: upper group sparsity by space.
      start_step: the first step of stage 2.
    """

    zigs: ZIGs
    epsilon: Mapping[str, Epsilon]
    upper: Mapping[str, Any]
    start_step: int | jax.Array

    shrinks: ClassVar[bool] = False  # Whether trials are kept in part, not only whole or not.

    def counts(self, name: str) -> bool:
        """Whether a space may have too many zero groups."""
        upper = self.upper[name]
        return isinstance(upper, jax.Array) or upper < 1

    def check_start(self) -> None:
        """There is nothing that a first step could not begin with."""

    def init(self, dtype: Any) -> HalfSpaceState:
        """The state before the first step; vectors in ``dtype``."""
        spaces = self.zigs.spaces
        held = {s.name: initial_epsilon(self.epsilon[s.name], dtype) for s in spaces}
        return HalfSpaceState(
            step=jnp.zeros([], jnp.int32),
            zero={s.name: jnp.zeros(s.size, bool) for s in spaces},
            ratio={s.name: jnp.ones(s.size, dtype) for s in spaces},
            epsilon={name: value for name, value in held.items() if value is not None},
            groups={s.name: jnp.asarray(s.size, jnp.int32) for s in spaces if self.counts(s.name)},
        )

    def decide(self, trial: Trial, state: HalfSpaceState) -> tuple[GroupVectors, HalfSpaceState]:
        """What part of each trial to keep, 1 or 0 per group, and the next state."""
        ratios = half_space_ratios(trial.squared_norms, trial.products)
        room = {name: self._room(name, trial.squared_norms[name], state) for name in ratios}
        epsilon = {name: self._epsilon(name, room[name], state) for name in ratios}
        keep = {
            name: kept_part(
                (state.step >= self.start_step)
                & ((trial.squared_norms[name] == 0) | _projected(ratio, epsilon[name], room[name]))
            )
            for name, ratio in ratios.items()
        }
        next_state = HalfSpaceState(
            step=optax.safe_increment(state.step),
            # A comparison with a Python number is weakly typed, as the initial state is not: the
            # second step would be compiled anew.
            zero={name: (part == 0).astype(bool) for name, part in keep.items()},
            ratio=last_ratios(ratios, state.ratio),
            epsilon={name: epsilon[name] for name in state.epsilon},
            groups=state.groups,
        )
        return keep, next_state

    def _epsilon(self, name: str, room: jax.Array | None, state: HalfSpaceState) -> Any:
        return next_epsilon(
            self.epsilon[name],
            state.epsilon.get(name),
            state.step,
            state.step - self.start_step,
            jnp.asarray(True) if room is None else room > 0,
        )

    def _room(self, name: str, norms: jax.Array, state: HalfSpaceState) -> jax.Array | None:
        """How many more groups may become zero; None where all may."""
        if name not in state.groups:
            return None
        alive = jnp.sum(norms != 0, dtype=jnp.int32)
        groups = state.groups[name]
        return most_zero_groups(self.upper[name], groups) - (groups - alive)


def _projected(ratio: jax.Array, epsilon: Any, room: jax.Array | None) -> jax.Array:
    crossing = crosses(ratio, epsilon)
    return crossing if room is None else deepest(crossing, ratio, room)
