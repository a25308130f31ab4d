"""What target mode is asked for: `Target`, checked and turned into budgets when it is given."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from oto_jax.errors import HyperparameterError, InfeasibleTargetError
from oto_jax.optim.hyperparameters import check_number, check_steps, per_space
from oto_jax.optim.kept_cost import KeptCost, group_count, parameter_cost
from oto_jax.optim.saliency import Saliencies, taylor
from oto_jax.zigs.partition import Space, ZIGs

Share: TypeAlias = "float | jax.Array"
LARGEST = 1e30


@dataclasses.dataclass(frozen=True)
class Target:
    """A sparsity to be reached exactly, and how.

    One of ``group_sparsity`` and ``kept`` says what.

    Attributes:
      group_sparsity: the share of all groups that shall be zero; or a mapping from spaces (names
        or globs) to the share of their groups, each reached on its own. Groups that are zero
        already are the first to count.
      kept: the share of the parameters that shall stay when the zero groups are cut; with
        ``costs``, the share of the cost. Reached to the nearest group.
      costs: by path, what an entry of a parameter costs; others cost nothing. With the number of
        positions at which a convolution's kernel is applied, and 1 for dense layers, these are
        MACs.
      saliency: which groups to keep: a `Saliency`, or several with weights.
      per_cost: rank groups by their saliency as it is, divided by the cost that cutting them saves
        at that moment, instead of by their saliency relative to the mean of their space. With
        `saliency.squared_taylor` that is loss per cost, comparable over the whole network. Groups
        whose cut would save nothing go last.
      keep_at_least: the share of each space's groups that always stays; never less than one group.
      fade: the share of the window over which a chosen group shrinks before it is put to zero.
      memory: decay of the running average of the saliency over steps.
      rounds: at how many steps of the window, at most, groups are chosen.

    Raises:
      HyperparameterError: if not exactly one of ``group_sparsity`` and ``kept`` is given, or a
        number is out of its range.

    Example:
      >>> import oto_jax
      >>> half_the_parameters = oto_jax.Target(kept=0.5)
      >>> narrow_mlps = oto_jax.Target(group_sparsity={"*mlp*": 0.7}, fade=0.1)
    """

    group_sparsity: Share | Mapping[str, Share] | None = None
    kept: float | None = None
    costs: Mapping[str, float] | None = None
    saliency: Saliencies = taylor
    per_cost: bool = False
    keep_at_least: float = 0.0
    fade: float = 0.2
    memory: float = 0.9
    rounds: int = 100

    def __post_init__(self) -> None:
        if (self.group_sparsity is None) == (self.kept is None):
            raise HyperparameterError("Target needs one of group_sparsity and kept, not both")
        if self.costs is not None and self.kept is None:
            raise HyperparameterError("Target(costs) says what is kept: give kept, the share")
        if not isinstance(self.costs, Mapping | None):
            raise HyperparameterError(
                f"Target(costs) maps paths of parameters to numbers; it is {self.costs!r}"
            )
        number = functools.partial(check_number, low=0.0, scheduled=False)
        number("Target(keep_at_least)", self.keep_at_least, below=1.0)
        number("Target(fade)", self.fade, high=1.0)
        number("Target(memory)", self.memory, below=1.0)
        check_steps("Target(rounds)", self.rounds, low=1)
        _check_saliency(self.saliency)
        if self.kept is not None:
            number("Target(kept)", self.kept, high=1.0)

    def floor(self, space: Space) -> int:
        """How many groups of a space stay in any case.

        Args:
          space: the space.

        Returns:
          A number of groups, at least 1.
        """
        return max(1, math.ceil(self.keep_at_least * space.size - 1e-9))


def _check_saliency(saliency: Any) -> None:
    if callable(saliency):
        return
    pairs = saliency if isinstance(saliency, Sequence) and not isinstance(saliency, str) else ()
    if not pairs or not all(
        isinstance(p, Sequence) and len(p) == 2 and callable(p[0]) for p in pairs
    ):
        raise HyperparameterError(
            "Target(saliency) must be a function of GroupStatistics, such as"
            f" oto_jax.saliency.taylor, or pairs of one and its weight, not {saliency!r}"
        )
    for _, weight in pairs:
        check_number("Target(saliency), a weight", weight, scheduled=False)


TargetLike: TypeAlias = "Share | Mapping[str, Share] | Target"


def as_target(target: TargetLike) -> Target:
    """A target; a bare share or mapping is one of groups."""
    return target if isinstance(target, Target) else Target(group_sparsity=target)


@dataclasses.dataclass(frozen=True, eq=False)
class Scope:
    """Spaces that share one budget.

    Attributes:
      name: ``"all"``, or the space's name.
      spaces: whose groups compete.
      cost: what the budget counts.
      full: the cost when nothing is cut.
      goal: the cost that shall be left.
    """

    name: str
    spaces: tuple[Space, ...]
    cost: KeptCost
    full: float
    goal: Any


def scopes(target: Target, zigs: ZIGs) -> tuple[Scope, ...]:
    """The budgets that a target sets.

    Raises:
      InfeasibleTargetError: if it cannot be met with one group left in every space.
      HyperparameterError: if it is no share, or names an unknown space or parameter.
    """
    share: Any = target.group_sparsity
    found: tuple[Scope, ...]
    if target.kept is not None:
        cost = parameter_cost(zigs, target.costs)
        full = float(cost(np.zeros(len(zigs.spaces))))
        _check_scale(cost, full)
        found = (Scope("all", zigs.spaces, cost, full, target.kept * full),)
    elif isinstance(share, Mapping):
        shares: dict[str, Any] = per_space(zigs, "target_group_sparsity", share, 0.0)
        found = tuple(_group_scope(s.name, (s,), shares[s.name]) for s in zigs.spaces)
    else:
        found = (_group_scope("all", zigs.spaces, share),)
    if not zigs.shrunk:  # Else the state goes on with the budgets of the network at the start.
        check_feasible(target, found)
    return found


def _check_scale(cost: KeptCost, full: float) -> None:
    """Steps reckon with costs in float32: what it cannot hold would count as 0, or as infinite."""
    if full == 0:
        raise HyperparameterError("Target(costs) are all 0: nothing could be saved")
    smallest = float(cost.prices.min())
    if full > LARGEST or smallest < 1 / LARGEST:
        raise HyperparameterError(
            f"Target(costs) are {smallest:.3g} for the cheapest entry and {full:.3g} for all;"
            f" express them in another unit, between {1 / LARGEST:.0e} and {LARGEST:.0e}"
        )


def _group_scope(name: str, spaces: tuple[Space, ...], share: Any) -> Scope:
    check_number("target_group_sparsity", share, low=0.0, high=1.0, scheduled=False)
    groups = sum(space.size for space in spaces)
    if not isinstance(share, jax.core.Tracer):
        return Scope(name, spaces, group_count(spaces), groups, groups - _asked(share, groups, np))
    if share.dtype.itemsize < 4:
        raise HyperparameterError(
            f"target_group_sparsity arrived as {share.dtype}, too coarse for an exact count: name"
            " it among the static_args of optax.inject_hyperparams"
        )
    return Scope(name, spaces, group_count(spaces), groups, groups - _asked(share, groups, jnp))


def _asked(share: Any, groups: int, xp: Any) -> Any:
    """``round(share * groups)``, where a product that float32 puts beside a half is a half."""
    product = share * groups if xp is jnp else float(share) * groups
    half = xp.round(2 * product) / 2
    return xp.round(xp.where(abs(product - half) <= 2e-7 * groups, half, product))


def check_feasible(target: Target, found: tuple[Scope, ...]) -> None:
    """Checks that one group is left in every space.

    Raises:
      InfeasibleTargetError: if not.
    """
    for scope in found:
        _check_feasible(target, scope)


def _check_feasible(target: Target, scope: Scope) -> None:
    if isinstance(scope.goal, jax.core.Tracer):
        return
    floors = np.array([target.floor(space) for space in scope.spaces], np.float64)
    least = float(scope.cost(np.array([space.size for space in scope.spaces]) - floors))
    if scope.goal < least * (1 - 1e-9):
        what = "groups" if target.kept is None else "of the cost"
        raise InfeasibleTargetError(
            f"the target leaves {_amount(scope.goal)} {what} of {_amount(scope.full)} in"
            f" {_whose(scope)}, but at least {_amount(least)} have to stay, {int(floors.sum())}"
            f" groups in {len(scope.spaces)} spaces: ask for at most"
            f" {_most(target, scope, least)}"
        )


def _amount(x: float) -> str:
    return f"{x:.0f}" if x == round(x) else f"{x:.4g}"


def _whose(scope: Scope) -> str:
    return "the network" if scope.name == "all" else f"space {scope.name!r}"


def _most(target: Target, scope: Scope, least: float) -> str:
    if target.kept is not None:
        return f"that: kept={least / scope.full:.4g} or more"
    return f"a group sparsity of {math.floor(1e4 * (1 - least / scope.full)) / 1e4:.4g}"
