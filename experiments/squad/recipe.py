"""Hyperparameters of BERT on SQuAD, and the optimizers they stand for.

The defaults are the paper's (Chen et al. 2021, section 4.2 and its repository): SGD without
momentum inside HSPG, gradients clipped to a global norm of 1, embeddings frozen, groups by Q/K
head dimension and FFN unit, and an epsilon that grows for the FFN's groups until the row's bound.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import optax

import oto_jax
from experiments.errors import OptionError
from experiments.training.options import check_range
from experiments.training.recipe import drops

FFN = "*ffn*"
VALUES = "encoder/*/attention/value/*"


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of the paper's table: what it reports, in percent, for a bound on FFN sparsity."""

    parameters: float
    exact_match: float
    f1: float


ROWS = {
    10: PaperRow(91.0, 75.0, 84.1),
    30: PaperRow(76.2, 72.3, 82.1),
    50: PaperRow(66.7, 71.9, 82.0),
    70: PaperRow(53.3, 71.4, 81.5),
    90: PaperRow(40.0, 70.9, 81.1),
}


@dataclasses.dataclass(frozen=True)
class SquadRecipe:
    """Hyperparameters of training on SQuAD.

    Attributes:
      row: the row of the paper's table: the most FFN units that may die, in percent.
      mode: ``faithful``: groups die by the half-space test as in the paper; ``target``: exactly
        ``target_group_sparsity`` of them die; ``dense``: nothing is pruned, for comparison.
      base: the optimizer that HSPG is built around: ``sgd`` as in the paper, or ``adamw`` (with
        linear warm-up and decay).
      groups: ``paper``: Q/K head dimensions and FFN units; ``head_dim``: V's dimensions too;
        ``heads``: whole heads and FFN units; ``residual``: these and the width of the residual
        stream, which is cut by `oto_jax.narrow` and needs ``train_embeddings``.
      epochs: length of the training.
      passes_per_epoch: over the training set.
      batch_size: windows per step on all devices together.
      learning_rate: at the start, or at the end of the warm-up; None: 0.1 for sgd, 5e-5 for adamw.
      learning_rate_drops: epochs at which sgd's is multiplied by 0.1.
      warmup: the part of all steps over which adamw's learning rate rises.
      weight_decay: of adamw, on kernels.
      lmbda: weight of the group lasso at the start.
      lmbda_drops: epochs at which it is multiplied by 0.1.
      start_epoch: N_p: the epoch at which groups begin to become zero.
      epsilon_every: faithful: steps between increases of the FFN's epsilon by 0.1.
      target_group_sparsity: target: the part of all groups that becomes zero.
      target_epochs: target: epochs from ``start_epoch`` to the target; None: half of the rest.
      clip: bound of the global norm of the gradient.
      train_embeddings: do not freeze the embeddings.
    """

    row: Literal[10, 30, 50, 70, 90] = 90
    mode: Literal["faithful", "target", "dense"] = "faithful"
    base: Literal["sgd", "adamw"] = "sgd"
    groups: Literal["paper", "head_dim", "heads", "residual"] = "paper"
    epochs: int = 9
    passes_per_epoch: int = 2
    batch_size: int = 32
    learning_rate: float | None = None
    learning_rate_drops: tuple[int, ...] = (4,)
    warmup: float = 0.1
    weight_decay: float = 0.01
    lmbda: float = 1e-3
    lmbda_drops: tuple[int, ...] = (2, 4, 6)
    start_epoch: int = 1
    epsilon_every: int = 200
    target_group_sparsity: float = 0.5
    target_epochs: int | None = None
    clip: float = 1.0
    train_embeddings: bool = False

    def __post_init__(self) -> None:
        check_range(self, ("epochs", "passes_per_epoch", "batch_size", "epsilon_every"), low=1)
        numbers = ("learning_rate", "weight_decay", "lmbda", "clip")
        epochs = ("learning_rate_drops", "lmbda_drops", "start_epoch", "target_epochs")
        check_range(self, (*numbers, *epochs), low=0)
        check_range(self, ("warmup", "target_group_sparsity"), low=0, high=1)
        if not 0 <= self.start_epoch <= self.epochs:
            raise OptionError(
                f"--start-epoch {self.start_epoch} is not within the {self.epochs} epochs"
            )
        if self.clip == 0:
            raise OptionError("--clip must be positive")
        if self.groups == "residual" and not self.train_embeddings:
            raise OptionError(
                "--groups residual needs --train-embeddings: the residual stream's groups hold"
                " columns of the embeddings, and frozen ones never become zero"
            )

    @property
    def zigs_options(self) -> dict[str, Any]:
        """Options of `oto_jax.find_zigs` for these groups."""
        return {
            "attention": "heads" if self.groups in ("heads", "residual") else "head_dim",
            "unprunable": (VALUES,) if self.groups == "paper" else (),
            "narrow_only": self.groups == "residual",
        }


def optimizer(
    recipe: SquadRecipe, zigs: oto_jax.ZIGs, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of a recipe; HSPG's projection is its last part."""
    return optax.chain(
        optax.identity() if recipe.train_embeddings else _freeze_embeddings(),
        optax.clip_by_global_norm(recipe.clip),
        _pruning_optimizer(recipe, zigs, steps_per_epoch),
    )


def _freeze_embeddings() -> optax.GradientTransformation:
    """Zero gradients for the embeddings: every optimizer here then leaves them as they are."""
    return optax.masked(optax.set_to_zero(), lambda params: _where(params, _is_embedding))


def _where(params: Any, condition: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: condition([str(getattr(key, "key", key)) for key in path]), params
    )


def _is_embedding(path: list[str]) -> bool:
    return "embeddings" in path


def _decays(path: list[str]) -> bool:
    return path[-1] == "kernel" and not _is_embedding(path)


def _pruning_optimizer(
    recipe: SquadRecipe, zigs: oto_jax.ZIGs, steps_per_epoch: int
) -> optax.GradientTransformation:
    rate = _learning_rate(recipe, steps_per_epoch)
    lmbda = drops(recipe.lmbda, recipe.lmbda_drops, steps_per_epoch)
    options = _projection(recipe, steps_per_epoch)
    if recipe.base == "sgd":
        if recipe.mode == "dense":
            return optax.sgd(rate)
        return oto_jax.hspg(rate, zigs, lmbda=lmbda, **options)
    base = optax.adamw(
        rate, weight_decay=recipe.weight_decay, mask=lambda params: _where(params, _decays)
    )
    if recipe.mode == "dense":
        return base
    projection = oto_jax.project_half_space(zigs, **options)
    # Target mode's saliencies look at the gradient, of which Adam's updates show little.
    return oto_jax.pass_gradient(
        optax.chain(oto_jax.add_group_lasso(lmbda, zigs), base, projection)
    )


def _learning_rate(recipe: SquadRecipe, steps_per_epoch: int) -> optax.Schedule:
    if recipe.base == "sgd":
        start = 0.1 if recipe.learning_rate is None else recipe.learning_rate
        return drops(start, recipe.learning_rate_drops, steps_per_epoch)
    peak = 5e-5 if recipe.learning_rate is None else recipe.learning_rate
    steps = recipe.epochs * steps_per_epoch
    rise = int(recipe.warmup * steps)
    up = optax.linear_schedule(0.0, peak, rise)
    down = optax.linear_schedule(peak, 0.0, max(steps - rise, 1))
    return optax.join_schedules([up, down], [rise])


def _projection(recipe: SquadRecipe, steps_per_epoch: int) -> dict[str, Any]:
    """Arguments of `oto_jax.project_half_space` and `oto_jax.hspg`."""
    start = recipe.start_epoch * steps_per_epoch
    if recipe.mode == "target":
        rest = recipe.epochs - recipe.start_epoch
        epochs = max(rest // 2, 1) if recipe.target_epochs is None else recipe.target_epochs
        return {
            "start_step": start,
            "target_group_sparsity": recipe.target_group_sparsity,
            "target_steps": min(epochs, rest) * steps_per_epoch,
        }
    return {
        "start_step": start,
        "epsilon": {FFN: oto_jax.AdaptiveEpsilon(every=recipe.epsilon_every)},
        "upper_group_sparsity": {FFN: recipe.row / 100},
    }
