"""Which groups become zero when a sparsity is to be reached exactly: `TargetRule`.

In the window of ``target_steps`` steps the budget falls along a cubic curve from the full network
to the goal. Whenever more is left than the budget allows, the groups with the lowest saliency are
chosen; a chosen group is not let go. It shrinks evenly towards zero for the fade's length, and is
put to zero by the half-space test, or at the latest by the end of its fade. The last groups are
chosen a fade before the window's end, so that there the count of zero groups is the asked one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from oto_jax.optim.choice import choose, shrinking_schedule, stack, unstack
from oto_jax.optim.half_space import (
    Trial,
    crosses,
    half_space_ratios,
    kept_part,
    last_ratios,
)
from oto_jax.optim.hyperparameters import value_at
from oto_jax.optim.norms import GroupVectors, cut, inner_products, of_kept_spaces
from oto_jax.optim.saliency import GroupStatistics, combined_scores
from oto_jax.optim.target import Scope, Target, check_feasible, scopes
from oto_jax.zigs.partition import ZIGs


class TargetState(NamedTuple):
    """State of the projection in target mode: counters and vectors over groups.

    Budgets and floors are those of the network at the start, and stay when the state is shrunk.

    Attributes:
      step: steps so far.
      zero: per space, which groups the last step left at zero.
      ratio: per space, each group's half-space ratio at the last step at which it was not zero.
      chosen_at: per space, the step at which each group was chosen to become zero, or -1.
      saliency: per space, running average of each group's saliency.
      full: by scope, the cost of the network at the start.
      goal: by scope, the cost that shall be left.
      floor: by space, how many groups stay in any case.
    """

    step: jax.Array
    zero: GroupVectors
    ratio: GroupVectors
    chosen_at: GroupVectors
    saliency: GroupVectors
    full: dict[str, jax.Array]
    goal: dict[str, jax.Array]
    floor: dict[str, jax.Array]

    def shrink(self, plan: Any) -> TargetState:
        """The state of the slim model that `oto_jax.prune` cuts along ``plan``."""
        return self._replace(
            zero=cut(self.zero, plan),
            ratio=cut(self.ratio, plan),
            chosen_at=cut(self.chosen_at, plan),
            saliency=cut(self.saliency, plan),
            floor=of_kept_spaces(self.floor, plan),
        )


@dataclasses.dataclass(frozen=True)
class TargetRule:
    """Puts as many groups to zero as a target asks, and no other.

    Attributes:
      zigs: the groups.
      target: what is asked.
      epsilon: by space, of the half-space test on chosen groups.
      start_step: the first step of the window.
      steps: the window's length.
    """

    zigs: ZIGs
    target: Target
    epsilon: Mapping[str, Any]
    start_step: int | jax.Array
    steps: int | jax.Array
    scopes: tuple[Scope, ...] = dataclasses.field(init=False)

    shrinks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scopes", scopes(self.target, self.zigs))

    def check_start(self) -> None:
        """Raises if a first step could not begin with this target, whatever was cut before."""
        check_feasible(self.target, self.scopes)

    def counts(self, name: str) -> bool:
        """Whether a space may have too many zero groups: all groups are counted."""
        del name
        return True

    def init(self, dtype: Any) -> TargetState:
        """The state before the first step; floating-point vectors in ``dtype``."""
        spaces = self.zigs.spaces
        return TargetState(
            step=jnp.zeros([], jnp.int32),
            zero={s.name: jnp.zeros(s.size, bool) for s in spaces},
            ratio={s.name: jnp.ones(s.size, dtype) for s in spaces},
            chosen_at={s.name: jnp.full(s.size, -1, jnp.int32) for s in spaces},
            saliency={s.name: jnp.zeros(s.size, dtype) for s in spaces},
            full={scope.name: jnp.asarray(scope.full, dtype) for scope in self.scopes},
            goal={scope.name: jnp.asarray(scope.goal, dtype) for scope in self.scopes},
            floor={s.name: jnp.asarray(self.target.floor(s), jnp.int32) for s in spaces},
        )

    def decide(self, trial: Trial, state: TargetState) -> tuple[GroupVectors, TargetState]:
        """What part of each trial to keep, in [0, 1] per group, and the next state."""
        ratios = half_space_ratios(trial.squared_norms, trial.products)
        saliency = self._saliency(trial, state)
        dead = {name: norm == 0 for name, norm in trial.squared_norms.items()}
        chosen_at = self._choose(saliency, dead, state)
        keep = {
            name: self._keep(name, ratio, dead[name], chosen_at[name], state)
            for name, ratio in ratios.items()
        }
        next_state = state._replace(
            step=optax.safe_increment(state.step),
            zero={name: part == 0 for name, part in keep.items()},
            ratio=last_ratios(ratios, state.ratio),
            chosen_at=chosen_at,
            saliency=saliency,
        )
        return keep, next_state

    def _saliency(self, trial: Trial, state: TargetState) -> GroupVectors:
        """Running averages; a step whose gradient is not finite leaves them as they were."""
        statistics = _statistics(self.zigs, trial)
        relative = not self.target.per_cost
        scores = combined_scores(self.target.saliency, statistics, relative)
        memory = jnp.where(state.step == 0, 0.0, self.target.memory)
        averages = {}
        for name, old in state.saliency.items():
            new = memory.astype(old.dtype) * (old - scores[name].astype(old.dtype)) + scores[name]
            averages[name] = jnp.where(jnp.isfinite(new), new, old).astype(old.dtype)
        return averages

    def _choose(
        self, saliency: GroupVectors, dead: GroupVectors, state: TargetState
    ) -> GroupVectors:
        chosen_at = dict(state.chosen_at)
        for scope in self.scopes:
            chosen_at |= self._choose_in(scope, saliency, dead, state)
        return chosen_at

    def _choose_in(
        self, scope: Scope, saliency: GroupVectors, dead: GroupVectors, state: TargetState
    ) -> dict[str, jax.Array]:
        """The steps at which the groups of a scope were chosen, after this step's choice."""
        before = stack(scope.spaces, state.chosen_at, pad=-1)
        full, goal = state.full[scope.name], state.goal[scope.name]
        away = shrinking_schedule(state.step, self.start_step, self._ramp())
        budget = goal + (full - goal) * away.astype(full.dtype)
        sizes = np.array([space.size for space in scope.spaces])
        floors = jnp.stack([state.floor[space.name] for space in scope.spaces])

        # What is zero already is given up already, whatever its saliency: left over, it would be
        # one too many; and cut out of the network, it would count no more.
        given_up = (before >= 0) | stack(scope.spaces, dead, pad=False)
        removed = jnp.sum(given_up, axis=1).astype(full.dtype)
        # The costs are sums in this dtype: what is over by rounding alone is not over.
        rounding = 0.0 if self.target.kept is None else 32 * jnp.finfo(full.dtype).eps * full
        over = scope.cost(removed, jnp) > budget + rounding
        is_round, last = self._is_round(state.step), away == 0

        def more() -> jax.Array:
            scores = stack(scope.spaces, saliency, pad=0)
            if self.target.per_cost:
                saved = scope.cost.savings(removed, jnp)[:, None]
                scores = jnp.where(saved > 0, scores / jnp.where(saved > 0, saved, 1), jnp.inf)
            return choose(scope.cost, sizes, scores, given_up, floors, budget, last)

        def no_more() -> jax.Array:
            return (before >= 0) | (given_up & is_round & last)

        chosen = jax.lax.cond(is_round & over, more, no_more)
        after = jnp.where(chosen & (before < 0), state.step, before)
        return unstack(scope.spaces, after)

    def _is_round(self, step: jax.Array) -> jax.Array:
        """Whether groups are chosen at this step: evenly over the ramp, and in its last step."""
        to_go = self.start_step + self._ramp() - 1 - step
        every = -(-self._ramp() // self.target.rounds)
        return (to_go >= 0) & (step >= self.start_step) & (to_go % every == 0)

    def _fade(self) -> Any:
        """Steps that a chosen group takes to become zero; at least 1."""
        steps = jnp.asarray(self.steps, jnp.float32)
        return jnp.maximum(1, jnp.round(self.target.fade * steps)).astype(jnp.int32)

    def _ramp(self) -> Any:
        """Steps in which groups are chosen: the last fades until the window's end."""
        return jnp.asarray(self.steps, jnp.int32) - self._fade() + 1

    def _keep(
        self,
        name: str,
        ratio: jax.Array,
        dead: jax.Array,
        chosen_at: jax.Array,
        state: TargetState,
    ) -> jax.Array:
        chosen = chosen_at >= 0
        steps_left = jnp.maximum(chosen_at + self._fade() - state.step, 1)
        part = 1 - 1 / steps_left.astype(ratio.dtype)
        due = jnp.isfinite(ratio) & (steps_left == 1)
        crossing = crosses(part * ratio, value_at(self.epsilon[name], state.step))
        zero = chosen & (dead | due | crossing)
        return kept_part(zero, jnp.where(chosen & (steps_left > 1), part * part, 1.0))


def _statistics(zigs: ZIGs, trial: Trial) -> dict[str, GroupStatistics]:
    """Numbers for the saliencies; without the gradient, the incoming direction stands for it."""
    gradients = trial.directions if trial.gradients is None else trial.gradients
    products = inner_products(zigs, gradients, trial.params)
    squares = inner_products(zigs, gradients, gradients)
    sign = trial.sign if trial.gradients is None else 1
    entries = {space.name: zigs.entries_per_group(space) for space in zigs.spaces}
    return {
        name: GroupStatistics(norm, sign * products[name], squares[name], entries[name])
        for name, norm in trial.squared_norms.items()
    }
