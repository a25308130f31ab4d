"""The optimizer of a run: the paper's hyperparameters, in epochs, to HSPG's, in steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import optax

import oto_jax
from experiments.errors import OptionError
from experiments.training.options import check_range


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Hyperparameters of training; epochs are passes over the training set.

    Attributes:
      epochs: length of the training.
      batch_size: examples per step on all devices together.
      learning_rate: at the start.
      learning_rate_drops: epochs at which it is multiplied by 0.1.
      cosine: let it fall to 0 along half a cosine instead.
      lmbda: weight of the group lasso at the start.
      lmbda_drops: epochs at which it is multiplied by 0.1.
      start_epoch: N_p: here stage 2 begins, and groups start to become exactly zero.
      momentum: of the sub-gradient.
      base: the optimizer that HSPG is built around: ``sgd`` as in the paper, ``nesterov`` with
        Nesterov's momentum, or ``muon`` for convolutions, with AdamW for all else at a tenth of its
        learning rate. Only ``sgd`` forgets its momentum when stage 2 begins.
      weight_decay: added to the gradient, times the parameter.
      epsilon: a group becomes zero when the step would leave less than this part of it, measured
        along itself; 0: when the step would turn it around.
      dense_epsilon: the same for dense layers; None: ``epsilon``.
      upper_group_sparsity: no more than this part of the groups becomes zero.
      target_group_sparsity: exactly this part of the groups becomes zero (HSPG's target mode);
        None: as many as the half-space test finds, as in the paper.
      target_macs: groups become zero until this part of the multiply-accumulates is left; instead
        of ``target_group_sparsity``.
      target_epochs: target mode: epochs from ``start_epoch`` to the target; None: half of the
        rest, 0: a single step.
      saliency: target mode: which groups to keep; None: HSPG's own choice, which is ``taylor``.
      per_cost: target mode: rank groups by saliency per cost that cutting them saves.
      memory: target mode: decay of the running average of saliencies, by step; None: HSPG's own.
        Near 1, groups are ranked by an average over more batches.
      fade: target mode: the share of the window over which a chosen group shrinks before it is put
        to zero; None: HSPG's own. With ``saliency`` ``magnitude``, ``target_epochs`` and ``fade`` 0
        and ``lmbda`` 0, a recipe is magnitude pruning in one shot, then fine-tuning.
      distillation: the weight of learning from what the network said at the start, beside the
        labels, in [0, 1]; for networks that start from trained weights.
      temperature: by which both networks' logits are divided there; more makes what the network
        said about the wrong classes count for more.
      uncropped_epochs: the last epochs, in which images are mirrored but not cropped, so that the
        network sees them as it will when it is tested.
    """

    epochs: int = 300
    batch_size: int = 64
    learning_rate: float = 0.1
    learning_rate_drops: tuple[int, ...] = (75, 150, 225)
    cosine: bool = False
    lmbda: float = 1e-3
    lmbda_drops: tuple[int, ...] = ()
    start_epoch: int = 75
    momentum: float = 0.0
    base: Literal["sgd", "nesterov", "muon"] = "sgd"
    weight_decay: float = 0.0
    epsilon: float = 0.0
    dense_epsilon: float | None = None
    upper_group_sparsity: float = 1.0
    target_group_sparsity: float | None = None
    target_macs: float | None = None
    target_epochs: int | None = None
    saliency: Literal["taylor", "squared_taylor", "magnitude"] | None = None
    per_cost: bool = False
    memory: float | None = None
    fade: float | None = None
    distillation: float = 0.0
    temperature: float = 4.0
    uncropped_epochs: int = 0

    def __post_init__(self) -> None:
        check_range(self, ("epochs", "batch_size"), low=1)
        numbers = ("learning_rate", "lmbda", "weight_decay", "momentum", "epsilon", "dense_epsilon")
        epochs = ("learning_rate_drops", "lmbda_drops", "start_epoch", "target_epochs")
        check_range(self, (*numbers, *epochs, "temperature", "uncropped_epochs"), low=0)
        shares = ("upper_group_sparsity", "target_group_sparsity", "target_macs", "memory", "fade")
        check_range(self, (*shares, "distillation"), low=0, high=1)
        for name in ("learning_rate_drops", "lmbda_drops"):
            drops_at = getattr(self, name)
            if len(set(drops_at)) < len(drops_at):
                raise OptionError(f"--{name.replace('_', '-')} names an epoch twice: {drops_at}")
        if not 0 <= self.start_epoch <= self.epochs:
            raise OptionError(
                f"--start-epoch {self.start_epoch} is not within the {self.epochs} epochs"
            )
        if self.temperature == 0:
            raise OptionError("--temperature must be above 0: logits are divided by it")
        if self.cosine and self.learning_rate_drops:
            raise OptionError("--cosine and --learning-rate-drops exclude each other")
        if self.target_macs is not None and self.target_group_sparsity is not None:
            raise OptionError("--target-macs and --target-group-sparsity exclude each other")
        if self.target_macs is None and self.target_group_sparsity is None:
            for name in ("saliency", "memory", "fade", "per_cost"):
                if getattr(self, name) != getattr(Recipe, name):  # its default
                    raise OptionError(
                        f"--{name.replace('_', '-')} says how a target is reached: give"
                        " --target-macs or --target-group-sparsity with it"
                    )


def check_cuts(recipe: Recipe, shrink_every: int) -> None:
    """Checks that dead groups can be cut out while training without a change to it.

    Raises:
      OptionError: if the base's step for one entry depends on others.
    """
    if recipe.base == "muon" and shrink_every:
        raise OptionError(
            "--base muon looks at whole kernels, so cutting would change the training: no"
            " --shrink-every"
        )


def drops(value: float, epochs: tuple[int, ...], steps_per_epoch: int) -> optax.Schedule:
    """``value``, multiplied by 0.1 at the beginning of each of the epochs."""
    factors = {epoch * steps_per_epoch: 0.1 for epoch in epochs}
    return optax.piecewise_constant_schedule(value, factors)


def learning_rate(recipe: Recipe, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate of every step."""
    if recipe.cosine:
        return optax.cosine_decay_schedule(recipe.learning_rate, recipe.epochs * steps_per_epoch)
    return drops(recipe.learning_rate, recipe.learning_rate_drops, steps_per_epoch)


def hspg_optimizer(
    recipe: Recipe, steps_per_epoch: int, mac_costs: Mapping[str, float] | None = None
) -> Callable[[oto_jax.ZIGs], optax.GradientTransformation]:
    """HSPG by a recipe, for whatever groups the model has.

    Weight decay acts on the gradient, before everything else, so that the projection is last.

    Args:
      recipe: the hyperparameters.
      steps_per_epoch: length of an epoch.
      mac_costs: what `mac_costs` returns, for a recipe with ``target_macs``.
    """

    def optimizer(zigs: oto_jax.ZIGs) -> optax.GradientTransformation:
        rate = learning_rate(recipe, steps_per_epoch)
        lmbda = drops(recipe.lmbda, recipe.lmbda_drops, steps_per_epoch)
        projection = {
            "epsilon": _epsilon(recipe),
            "start_step": recipe.start_epoch * steps_per_epoch,
            "upper_group_sparsity": recipe.upper_group_sparsity,
            **_target(recipe, steps_per_epoch, mac_costs),
        }
        hspg: optax.GradientTransformation
        if recipe.base == "sgd":
            momentum = recipe.momentum
            hspg = oto_jax.hspg(rate, zigs, lmbda=lmbda, momentum=momentum, **projection)
        else:
            hspg = oto_jax.pass_gradient(
                optax.chain(
                    oto_jax.add_group_lasso(lmbda, zigs),
                    _base(recipe, rate),
                    oto_jax.project_half_space(zigs, **projection),
                )
            )
        if recipe.weight_decay == 0:
            return hspg
        return optax.chain(optax.add_decayed_weights(recipe.weight_decay), hspg)

    return optimizer


def _base(recipe: Recipe, rate: optax.Schedule) -> optax.GradientTransformation:
    """An optimizer other than the paper's."""
    if recipe.base == "nesterov":
        return optax.sgd(rate, recipe.momentum, nesterov=True)

    def dimensions(params: Any) -> Any:
        conv = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
        return jax.tree.map(lambda leaf: conv if leaf.ndim == 4 else None, params)

    return optax.contrib.muon(
        rate,
        beta=recipe.momentum,
        muon_weight_dimension_numbers=dimensions,
        adam_learning_rate=lambda step: 0.1 * rate(step),
    )


def _target(
    recipe: Recipe, steps_per_epoch: int, mac_costs: Mapping[str, float] | None
) -> dict[str, Any]:
    if recipe.target_macs is not None:
        what: dict[str, Any] = {"kept": recipe.target_macs, "costs": mac_costs}
    elif recipe.target_group_sparsity is not None:
        what = {"group_sparsity": recipe.target_group_sparsity}
    else:
        return {}
    rest = recipe.epochs - recipe.start_epoch
    epochs = rest / 2 if recipe.target_epochs is None else min(recipe.target_epochs, rest)
    target = oto_jax.Target(**what, **_how(recipe))
    steps = max(1, int(epochs * steps_per_epoch))
    return {"target_group_sparsity": target, "target_steps": steps}


def _how(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says about the way to the target; the rest is the library's choice."""
    how: dict[str, Any] = {"per_cost": recipe.per_cost}
    if recipe.saliency is not None:
        how["saliency"] = getattr(oto_jax.saliency, recipe.saliency)
    for name in ("memory", "fade"):
        if getattr(recipe, name) is not None:
            how[name] = getattr(recipe, name)
    return how


def mac_costs(model: nn.Module, *inputs: Any, **call: Any) -> dict[str, float]:
    """Multiply-accumulates for each entry of a kernel: how often the layer applies it.

    Args:
      model: a network of `flax.linen.Conv` and `flax.linen.Dense` layers.
      *inputs: its inputs, arrays or their shapes.
      **call: keyword arguments of its call.

    Returns:
      By the kernel's path: the number of positions of the layer's output, for one example.

    Example:
      >>> import jax.numpy as jnp, flax.linen as nn
      >>> mac_costs(nn.Sequential([nn.Conv(4, (3, 3)), nn.Dense(2)]), jnp.ones((1, 8, 8, 3)))
      {'layers_0/kernel': 64, 'layers_1/kernel': 64}
    """
    layers = (nn.Conv, nn.Dense)

    def outputs(*arrays: Any) -> Any:
        _, seen = model.init_with_output(
            jax.random.key(0),
            *arrays,
            capture_intermediates=lambda module, method: (
                isinstance(module, layers) and method == "__call__"
            ),
            **call,
        )
        return seen["intermediates"]

    shapes = jax.eval_shape(outputs, *inputs)
    return {
        "/".join(str(key.key) for key in path[:-2]) + "/kernel": math.prod(leaf.shape[1:-1])
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }


def _epsilon(recipe: Recipe) -> float | dict[str, float]:
    if recipe.dense_epsilon is None:
        return recipe.epsilon
    return {"dense*": recipe.dense_epsilon, "*": recipe.epsilon}
