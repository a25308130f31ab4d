r"""The two halves of HSPG, to be chained around any optimizer (paper, section 3.2).

`add_group_lasso` comes first and turns the gradient of the loss into a sub-gradient of
:math:`\psi(x) = f(x) + \lambda \sum_g \|x_g\|_2`; `project_half_space` comes last and puts groups
exactly to zero.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from oto_jax.optim.half_space import Trial
from oto_jax.optim.hyperparameters import (
    Epsilon,
    PerSpace,
    ScalarOrSchedule,
    check_has_groups,
    check_number,
    check_steps,
    value_at,
)
from oto_jax.optim.norms import (
    GroupVectors,
    accumulation_dtype,
    grouped_leaves,
    inner_products,
    map_leaves,
    spread,
    spread_over_dependents,
    squared_norms,
)
from oto_jax.optim.rule import make_rule
from oto_jax.optim.target import TargetLike
from oto_jax.zigs.partition import Path, ZIGs

NO_PARAMS_MSG = (
    "You are using a transformation that requires the current value of parameters, but you are not"
    " passing `params` when calling `update`."
)
NORM_OFFSET = 1e-6
"""What the original adds to a norm before it divides by it."""


class GroupLassoState(NamedTuple):
    """The number of steps so far, for a schedule of lambda."""

    step: jax.Array


def add_group_lasso(lmbda: ScalarOrSchedule, zigs: ZIGs) -> optax.GradientTransformation:
    r"""Add the sub-gradient of the group lasso to the gradients.

    .. math::
      g_g \leftarrow g_g + \lambda \frac{x_g}{\|x_g\|_2 + 10^{-6}}

    for every group, whatever its size; groups that are zero, and parameters in no group, keep their
    gradient (paper, equation 4 and section 3.2).

    Args:
      lmbda: the weight :math:`\lambda \ge 0`, a number or a schedule of the step.
      zigs: the groups.

    Returns:
      A transformation for the front of an `optax.chain`.

    Raises:
      HyperparameterError: if ``lmbda`` is negative or not finite.
      UnprunableModelError: if there is no group.
      ValueError: from ``update``, if it is not given the parameters.
      ZIGMismatchError: from ``update``, if they are not those of ``zigs``.

    Example:
      >>> import jax.numpy as jnp, optax, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[3.0, 0.0], [4.0, 0.0]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> tx = oto_jax.add_group_lasso(10.0, zigs)
      >>> gradients = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2, 2))}
      >>> updates, _ = tx.update(gradients, tx.init(params), params)
      >>> jnp.round(updates["a"], 3).astype(int).tolist()
      [[6, 0], [8, 0]]
    """
    check_number("lmbda", lmbda, low=0.0)
    check_has_groups(zigs)

    def init_fn(params: Any) -> GroupLassoState:
        del params
        return GroupLassoState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: Any, state: GroupLassoState, params: Any = None
    ) -> tuple[Any, GroupLassoState]:
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        scales = _lasso_scales(squared_norms(zigs, grouped_leaves(zigs, params)), lmbda, state)

        def add(path: Path, gradient: jax.Array, param: jax.Array) -> jax.Array:
            if path not in zigs.members_by_path:
                return gradient
            dtype = accumulation_dtype(param, gradient)
            scale = spread(zigs, scales, path, param.shape, 0.0).astype(dtype)
            return (gradient.astype(dtype) + scale * param.astype(dtype)).astype(gradient.dtype)

        new_updates = map_leaves(zigs, add, updates, params)
        return new_updates, GroupLassoState(optax.safe_increment(state.step))

    return optax.GradientTransformation(init_fn, update_fn)


def _lasso_scales(
    norms: GroupVectors, lmbda: ScalarOrSchedule, state: GroupLassoState
) -> GroupVectors:
    weight = value_at(lmbda, state.step)
    return {
        name: jnp.asarray(weight, norm.dtype) / (jnp.sqrt(norm) + NORM_OFFSET)
        for name, norm in norms.items()
    }


class MomentumState(NamedTuple):
    """The number of steps so far and the sum of past updates, shaped like the parameters."""

    step: jax.Array
    trace: Any


def momentum_by_stage(
    momentum: float | jax.Array, start_step: int | jax.Array
) -> optax.GradientTransformation:
    r"""Momentum :math:`m \leftarrow \mu m + g` that starts afresh when stage 2 begins.

    The original keeps one buffer per stage; forgetting the sum at ``start_step`` is the same with
    one. Without that, the momentum of stage 1 would carry groups over the edge of the half-space.

    Args:
      momentum: :math:`\mu` in [0, 1).
      start_step: the first step of stage 2, :math:`N_P`.

    Raises:
      HyperparameterError: if an argument is out of its range.
    """
    check_number("momentum", momentum, low=0.0, below=1.0, scheduled=False)
    check_steps("start_step", start_step, low=0)

    def init_fn(params: Any) -> MomentumState:
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update_fn(
        updates: Any, state: MomentumState, params: Any = None
    ) -> tuple[Any, MomentumState]:
        del params
        decay = jnp.where(state.step == start_step, 0.0, momentum)
        trace = jax.tree.map(
            lambda g, m: (g + decay.astype(g.dtype) * m.astype(g.dtype)).astype(m.dtype),
            updates,
            state.trace,
        )
        return trace, MomentumState(optax.safe_increment(state.step), trace)

    return optax.GradientTransformation(init_fn, update_fn)


def project_half_space(
    zigs: ZIGs,
    *,
    epsilon: PerSpace[Epsilon] = 0.0,
    start_step: int | jax.Array = 0,
    upper_group_sparsity: PerSpace[float | jax.Array] = 1.0,
    target_group_sparsity: TargetLike | None = None,
    target_steps: int | jax.Array | None = None,
    zero_dependents: bool | None = None,
    learning_rate: ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Put groups exactly to zero; the last transformation of a chain.

    From step ``start_step`` on, with the trial :math:`\tilde x = x + u`, for every group

    .. math::
      u_g \leftarrow \begin{cases} -x_g & \text{if } x_g = 0 \text{ or }
        \langle \tilde x_g, x_g \rangle < \epsilon \|x_g\|^2 \\ u_g & \text{otherwise}
      \end{cases}

    (paper, equations 6 to 8). With a target, only groups chosen by their saliency become zero, as
    many as asked: see `oto_jax.Target`. The saliencies see the gradient if ``update`` is given it
    as the extra argument ``grad``, as `hspg` does; else the incoming updates stand for it.

    The update is cast to the parameter's dtype, so that
    `optax.apply_updates` gives bitwise zeros. A group whose update is not finite is never put to
    zero. Whatever comes after it, a learning rate, weight decay or an average of the parameters,
    loses the zeros; `oto_jax.check_zeros` catches that.

    Args:
      zigs: the groups.
      epsilon: :math:`\epsilon \in [0, 1)`: a number, a schedule of the step, an
        `AdaptiveEpsilon`, or a mapping from spaces to any of these (0 where unnamed).
      start_step: the first step of stage 2, :math:`N_P`.
      upper_group_sparsity: the share of its groups that the test may put to zero in each space,
        in [0, 1]; or a mapping from spaces to shares (1 where unnamed). When more would cross,
        those with the smallest half-space ratio go.
      target_group_sparsity: what to reach exactly instead (target mode): a share of all groups, a
        mapping from spaces to shares of their groups, or a `Target`.
      target_steps: by how many steps after ``start_step`` the target is reached.
      zero_dependents: whether entries that only read from a dead group, such as the inputs of the
        next layer, become zero with it. They have no effect on the network any more, but they do
        on the norms of the groups that they lie in; with this, cutting dead groups out during
        training changes nothing (but for dropout's draws, and under LayerNorm with a clipped
        global norm). By default in target mode only: the paper leaves them.
      learning_rate: a number or schedule when the incoming updates are a direction of descent that
        is still to be scaled: the same as `optax.scale_by_learning_rate` just before, at one
        pass over the parameters less.

    Returns:
      A transformation for the end of an `optax.chain`.

    Raises:
      HyperparameterError: if an argument is out of its range or names an unknown space.
      InfeasibleTargetError: if the target would empty a space; of a network that was cut, from
        ``init`` outside of `jax.jit`, for there a state could go on with the budgets of the start.
      UnprunableModelError: if there is no group.
      ValueError: from ``update``, if it is not given the parameters.
      ZIGMismatchError: from ``update``, if they are not those of ``zigs``.

    Example:
      >>> import jax.numpy as jnp, optax, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> tx = optax.chain(optax.sgd(1.0), oto_jax.project_half_space(zigs))
      >>> gradients = {"a": jnp.array([[1.5, 1.5]]), "b": jnp.zeros((2, 2))}
      >>> updates, _ = tx.update(gradients, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["a"].tolist()
      [[0.0, 0.5]]
    """
    check_has_groups(zigs)
    if learning_rate is not None:
        check_number("learning_rate", learning_rate, low=0.0)
    rule = make_rule(
        zigs, epsilon, start_step, upper_group_sparsity, target_group_sparsity, target_steps
    )

    clears = rule.shrinks if zero_dependents is None else zero_dependents

    def init_fn(params: Any) -> Any:
        leaves = jax.tree.leaves(params)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            rule.check_start()
        return rule.init(accumulation_dtype(*leaves))

    def update_fn(
        updates: Any, state: Any, params: Any = None, *, grad: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        del extra_args
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        rate = None if learning_rate is None else value_at(learning_rate, state.step)
        keep, new_state = rule.decide(_trial(zigs, updates, params, grad, rate), state)

        def project(path: Path, direction: jax.Array, param: jax.Array) -> jax.Array:
            update = _scaled(direction, rate)
            parts = []
            if path in zigs.members_by_path:
                parts = [spread(zigs, keep, path, param.shape, 1.0)]
                if rule.shrinks:
                    update = _shrunk(update, parts[0], param)
            if clears:
                parts += spread_over_dependents(zigs, keep, path, param.shape, 1.0)
            update = update.astype(param.dtype)
            spaces = [space.name for space, _ in zigs.members_by_path.get(path, ())]
            if any(map(rule.counts, spaces)):
                update = _short_of_zero(update, param)
            return jnp.where(_any_zero(parts), -param, update) if parts else update

        return map_leaves(zigs, project, updates, params), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _any_zero(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.logical_or, [part == 0 for part in parts])


def _trial(zigs: ZIGs, updates: Any, params: Any, grad: Any, rate: Any) -> Trial:
    leaves, directions = grouped_leaves(zigs, params), grouped_leaves(zigs, updates)
    products = inner_products(zigs, directions, leaves)
    return Trial(
        params=leaves,
        directions=directions,
        sign=-1 if rate is None else 1,
        gradients=None if grad is None else grouped_leaves(zigs, grad),
        squared_norms=squared_norms(zigs, leaves),
        products={name: _scaled(product, rate) for name, product in products.items()},
    )


def _scaled(direction: jax.Array, rate: Any) -> jax.Array:
    """The step in a direction of descent; the direction itself where it is a step already."""
    if rate is None:
        return direction
    dtype = accumulation_dtype(direction)
    return -jnp.asarray(rate, dtype) * direction.astype(dtype)


def _short_of_zero(update: jax.Array, param: jax.Array) -> jax.Array:
    """The update, but where rounding to half precision makes it end at zero: short of that.

    A step of the lasso that ends close to zero is rounded to a whole group's zero there, and so
    there would be more zero groups than are counted.
    """
    if param.dtype.itemsize >= 4:
        return update
    rounded_away = (param + update == 0) & (param != 0)
    return jnp.where(rounded_away, update + param / 8, update)


def _shrunk(update: jax.Array, part: jax.Array, param: jax.Array) -> jax.Array:
    """The update that leads to ``part`` of the trial: a part of it, and back towards zero."""
    dtype = accumulation_dtype(param, update)
    part = part.astype(dtype)
    return part * update.astype(dtype) + (part - 1) * param.astype(dtype)
