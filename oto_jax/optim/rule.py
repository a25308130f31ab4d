"""From the arguments of `project_half_space` to the rule that decides: checks them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from oto_jax.errors import HyperparameterError
from oto_jax.optim.faithful import FaithfulRule
from oto_jax.optim.hyperparameters import (
    AdaptiveEpsilon,
    Epsilon,
    PerSpace,
    check_number,
    check_steps,
    per_space,
)
from oto_jax.optim.target import TargetLike, as_target
from oto_jax.optim.target_rule import TargetRule
from oto_jax.zigs.partition import ZIGs


def make_rule(
    zigs: ZIGs,
    epsilon: PerSpace[Epsilon],
    start_step: int | jax.Array,
    upper_group_sparsity: PerSpace[Any],
    target_group_sparsity: TargetLike | None,
    target_steps: int | jax.Array | None,
) -> FaithfulRule | TargetRule:
    """The rule for faithful mode, or for target mode where a target is given.

    Raises:
      HyperparameterError: if an argument is out of its range or names an unknown space.
      InfeasibleTargetError: if the target would empty a space.
    """
    check_steps("start_step", start_step, low=0)
    epsilons = _epsilons(zigs, epsilon)
    upper = _upper(zigs, upper_group_sparsity)
    if target_group_sparsity is None:
        if target_steps is not None:
            raise HyperparameterError(
                "target_steps says by when a target is reached: give target_group_sparsity with it"
            )
        return FaithfulRule(zigs, epsilons, upper, start_step)
    _check_faithful_arguments_unused(epsilons, upper)
    target = as_target(target_group_sparsity)
    return TargetRule(zigs, target, epsilons, start_step, _steps(target_steps))


def _epsilons(zigs: ZIGs, epsilon: PerSpace[Epsilon]) -> dict[str, Epsilon]:
    epsilons: dict[str, Epsilon] = per_space(zigs, "epsilon", epsilon, 0.0)
    for value in epsilons.values():
        if not isinstance(value, AdaptiveEpsilon):
            check_number("epsilon", value, low=0.0, below=1.0)
    return epsilons


def _upper(zigs: ZIGs, upper: PerSpace[Any]) -> dict[str, Any]:
    uppers = per_space(zigs, "upper_group_sparsity", upper, 1.0)
    for value in uppers.values():
        check_number("upper_group_sparsity", value, low=0.0, high=1.0, scheduled=False)
    return uppers


def _steps(target_steps: int | jax.Array | None) -> int | jax.Array:
    if target_steps is None:
        raise HyperparameterError(
            "target_steps is missing: with target_group_sparsity, say in how many steps after"
            " start_step it shall be reached"
        )
    check_steps("target_steps", target_steps, low=1)
    return target_steps


def _check_faithful_arguments_unused(
    epsilons: Mapping[str, Epsilon], upper: Mapping[str, Any]
) -> None:
    if any(isinstance(value, AdaptiveEpsilon) for value in epsilons.values()):
        raise HyperparameterError(
            "epsilon cannot adapt itself when target_group_sparsity is given: the target is exact"
        )
    if any(not isinstance(value, jax.core.Tracer) and value < 1 for value in upper.values()):
        raise HyperparameterError(
            "upper_group_sparsity and target_group_sparsity exclude each other: the target is exact"
        )
