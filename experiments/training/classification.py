"""Image classification: the loss, and scores on exactly the whole test set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.training import parallel as par
from experiments.training.parallel import Parallel
from experiments.training.state import Batch, LossFn, Metrics, Variables

Prepare = Callable[[Batch], jax.Array]


@dataclasses.dataclass(frozen=True)
class Distillation:
    r"""Learning from what another network says: :math:`T^2 \mathrm{KL}(p_T \,\|\, q_T)`.

    With the softmaxes :math:`p_T` of the teacher and :math:`q_T` of the student, both of logits
    divided by the temperature (Hinton, Vinyals and Dean, *Distilling the knowledge in a neural
    network*, 2015).

    Attributes:
      teacher: from the model's input to logits.
      weight: of this loss, in [0, 1]; the labels' cross-entropy has the rest.
      temperature: :math:`T`.
    """

    teacher: Callable[[jax.Array], jax.Array]
    weight: float
    temperature: float

    def loss(self, inputs: jax.Array, logits: jax.Array) -> jax.Array:
        """The mean over a batch."""
        said = jax.nn.softmax(self.teacher(inputs) / self.temperature)
        heard = jax.nn.log_softmax(logits / self.temperature)
        return self.temperature**2 * optax.losses.kl_divergence(heard, said).mean()


def classification_loss(prepare: Prepare, distillation: Distillation | None = None) -> LossFn:
    """Mean cross-entropy of a classifier, alone or beside what a teacher says.

    Args:
      prepare: from a training batch to the model's input: augmentation and normalisation.
      distillation: the teacher, if there is one.

    Returns:
      A loss with the training accuracy in percent as ``top1``.
    """

    def loss(
        model: nn.Module, variables: Variables, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        mutable = [name for name in variables if name != "params"]
        inputs, labels = prepare(batch), batch["label"]
        logits, model_state = model.apply(
            variables, inputs, train=True, rngs={"dropout": key}, mutable=mutable
        )
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        if distillation is not None:
            weight = distillation.weight
            value = (1 - weight) * value + weight * distillation.loss(inputs, logits)
        top1 = 100 * jnp.mean(jnp.argmax(logits, -1) == labels)
        return value, (dict(model_state), {"top1": top1})

    return loss


def evaluator(
    prepare: Prepare, batches: Callable[[], Iterable[Batch]], parallel: Parallel
) -> Callable[[nn.Module, Any], dict[str, float]]:
    """A function that scores a model on every example of a test set, each exactly once.

    Args:
      prepare: from a test batch to the model's input.
      batches: the test set; rows whose ``mask`` is 0 only fill up a batch and do not count.
      parallel: the devices.

    Returns:
      ``(model, replicated variables) -> {"loss", "top1", "top5", "examples"}``, scores in percent.
    """
    compiled: dict[nn.Module, Callable[..., Any]] = {}

    def evaluate(model: nn.Module, variables: Any) -> dict[str, float]:
        if model not in compiled:
            compiled.clear()  # A narrower model has taken the old one's place.
            compiled[model] = par.compile_sum(parallel, _sums(model, prepare))
        totals = {"loss": 0.0, "top1": 0.0, "top5": 0.0, "examples": 0.0}
        shards = (par.shard_batch(parallel, batch) for batch in batches())
        sums = (compiled[model](variables, shard) for shard in shards)
        for found in map(jax.device_get, par.ahead(sums, 1)):
            totals = {name: totals[name] + float(found[name]) for name in totals}
        count = totals["examples"]
        return {
            "loss": totals["loss"] / count,
            "top1": 100 * totals["top1"] / count,
            "top5": 100 * totals["top5"] / count,
            "examples": count,
        }

    return evaluate


def _sums(model: nn.Module, prepare: Prepare) -> Callable[[Variables, Batch], Metrics]:
    def sums(variables: Variables, batch: Batch) -> Metrics:
        logits: Any = model.apply(variables, prepare(batch), train=False)
        labels, mask = batch["label"], batch["mask"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
        hits = best == labels[:, None]
        return {
            "loss": jnp.sum(mask * losses),
            "top1": jnp.sum(mask * hits[:, 0]),
            "top5": jnp.sum(mask * hits.any(-1)),
            "examples": jnp.sum(mask),
        }

    return sums
