"""Image classification: the loss, and scores on exactly the whole test set."""

from __future__ import annotations

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


def classification_loss(prepare: Prepare) -> LossFn:
    """Mean cross-entropy of a classifier.

    Args:
      prepare: from a training batch to the model's input: augmentation and normalisation.

    Returns:
      A loss with the training accuracy in percent as ``top1``.
    """

    def loss(
        model: nn.Module, variables: Variables, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Variables, Metrics]]:
        mutable = [name for name in variables if name != "params"]
        logits, model_state = model.apply(
            variables, prepare(batch), train=True, rngs={"dropout": key}, mutable=mutable
        )
        labels = batch["label"]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
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
        sums = [compiled[model](variables, par.shard_batch(parallel, b)) for b in batches()]
        for found in jax.device_get(sums):
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
