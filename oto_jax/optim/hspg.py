"""`hspg`: the half-space stochastic projected gradient method, as one `optax.chain`."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import optax

from oto_jax.optim.hyperparameters import (
    Epsilon,
    PerSpace,
    ScalarOrSchedule,
    check_has_groups,
    check_number,
    per_space,
)
from oto_jax.optim.parts import in_parts
from oto_jax.optim.target import TargetLike
from oto_jax.optim.transforms import add_group_lasso, momentum_by_stage, project_half_space
from oto_jax.zigs.partition import ZIGs

T = TypeVar("T")


def hspg(
    learning_rate: ScalarOrSchedule,
    zigs: ZIGs,
    *,
    lmbda: ScalarOrSchedule = 1e-3,
    epsilon: PerSpace[Epsilon] = 0.0,
    momentum: float | jax.Array = 0.0,
    start_step: int | jax.Array = 0,
    upper_group_sparsity: PerSpace[float | jax.Array] = 1.0,
    target_group_sparsity: TargetLike | None = None,
    target_steps: int | jax.Array | None = None,
    zero_dependents: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Half-space stochastic projected gradient (paper, algorithm 2).

    Minimises :math:`\psi(x) = f(x) + \lambda \sum_g \|x_g\|_2`. With the gradient :math:`\nabla f`,

    .. math::
      m &\leftarrow \mu m + \nabla f(x) + \lambda \frac{x_g}{\|x_g\|_2 + 10^{-6}}
          && \text{(sub-gradient of } \psi \text{, with momentum)} \\
      \tilde x &= x - \alpha m && \text{(trial)} \\
      x_g &\leftarrow \begin{cases} 0 & \text{if } t \ge N_P \text{ and } (x_g = 0 \text{ or }
          \langle \tilde x_g, x_g \rangle < \epsilon \|x_g\|^2) \\
          \tilde x_g & \text{otherwise.} \end{cases}

    Momentum starts afresh at the switch to stage 2, step :math:`N_P`. Parameters in no group take
    plain momentum SGD.

    Args:
      learning_rate: :math:`\alpha`, a number or a schedule of the step.
      zigs: the groups, from `oto_jax.find_zigs`.
      lmbda: :math:`\lambda \ge 0`, a number or a schedule.
      epsilon: :math:`\epsilon \in [0, 1)`, a number, a schedule, an `AdaptiveEpsilon`, or a
        mapping from spaces to any of these. The larger, the more groups die.
      momentum: :math:`\mu \in [0, 1)`. At 0 no buffer is kept.
      start_step: :math:`N_P`, the number of steps of stage 1.
      upper_group_sparsity: the share of zero groups up to which the test may put groups of each
        space to zero, in [0, 1]; a number or a mapping from spaces.

      target_group_sparsity: what to reach exactly by step ``start_step + target_steps`` and to hold
        (target mode), instead of letting the test decide: a share of all groups, a mapping from
        spaces to shares of their groups, or a `oto_jax.Target`.
      target_steps: the length of the window in which the target is reached.
      zero_dependents: whether what only reads from dead groups becomes zero with them, so that they
        can be cut out during training without a change; by default in target mode only.

    Returns:
      A transformation that ends a chain: nothing may change its updates.

    Raises:
      HyperparameterError: if an argument is out of its range or names an unknown space.
      InfeasibleTargetError: if the target would empty a space.
      UnprunableModelError: if there is no group.
      ValueError: from ``update``, if it is not given the parameters.
      ZIGMismatchError: from ``update``, if they are not those of ``zigs``.

    Example:
      >>> import jax, jax.numpy as jnp, optax, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.array([[1.0, 1e-3]]), "b": jnp.ones((2, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 1)))
      >>> tx = optax.chain(
      ...     optax.clip_by_global_norm(1.0), oto_jax.hspg(0.1, zigs, lmbda=0.1, start_step=0))
      >>> gradients = jax.tree.map(jnp.zeros_like, params)
      >>> updates, _ = tx.update(gradients, tx.init(params), params)
      >>> [round(x, 3) for x in optax.apply_updates(params, updates)["a"][0].tolist()]
      [0.99, 0.0]
    """
    check_has_groups(zigs)
    check_number("learning_rate", learning_rate, low=0.0)
    check_number("momentum", momentum, low=0.0, below=1.0)
    keeps_momentum = isinstance(momentum, jax.Array) or momentum != 0
    epsilons: dict[str, Epsilon] = per_space(zigs, "epsilon", epsilon, 0.0)
    uppers: dict[str, float | jax.Array] = per_space(
        zigs, "upper_group_sparsity", upper_group_sparsity, 1.0
    )

    def make(part: ZIGs) -> optax.GradientTransformationExtraArgs:
        return optax.chain(
            add_group_lasso(lmbda, part),
            momentum_by_stage(momentum, start_step) if keeps_momentum else optax.identity(),
            project_half_space(
                part,
                learning_rate=learning_rate,
                epsilon=_for_part(part, epsilons),
                start_step=start_step,
                upper_group_sparsity=_for_part(part, uppers),
                target_group_sparsity=target_group_sparsity,
                target_steps=target_steps,
                zero_dependents=zero_dependents,
            ),
        )

    if target_group_sparsity is not None:
        return pass_gradient(make(zigs))  # All groups compete for what the target leaves.
    return make(zigs) if zero_dependents else in_parts(make, zigs)


def _for_part(part: ZIGs, values: Mapping[str, T]) -> dict[str, T]:
    """The values of a part's spaces, by names that are not read as patterns."""
    return {glob.escape(space.name): values[space.name] for space in part.spaces}


def pass_gradient(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Give every transformation of a chain the gradient that the chain starts from.

    It arrives as the extra argument ``grad``, unless the caller gives one. For target mode around
    any base optimizer, whose updates say less about the loss than its gradient.

    Args:
      tx: the chain.

    Returns:
      A transformation that does what ``tx`` does; what of the chain takes ``grad`` gets it.

    Example:
      >>> import jax.numpy as jnp, optax, oto_jax
      >>> def f(params, x):
      ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
      >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 2))}
      >>> zigs = oto_jax.find_zigs(f, params, jnp.ones((1, 2)))
      >>> tx = oto_jax.pass_gradient(optax.chain(
      ...     oto_jax.add_group_lasso(1e-3, zigs),
      ...     optax.adamw(1e-3),
      ...     oto_jax.project_half_space(zigs, target_group_sparsity=0.5, target_steps=100)))
    """

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        return tx.update(updates, state, params, **{"grad": updates, **extra_args})

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
