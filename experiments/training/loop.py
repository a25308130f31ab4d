"""The training loop: batches in, a trained sparse network out, interrupted or not.

The loop knows neither model nor data; both come in a `Task`. The data's position is the step: the
batches are a pure function of the seed and the step, so a checkpoint that holds the step
holds the position, and a run that was killed repeats exactly what it lost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

import oto_jax
from experiments.training import parallel as par
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.state import (
    Batch,
    LossFn,
    TrainState,
    Variables,
    many_steps,
    train_step,
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, on what.

    Attributes:
      model: the network at full width.
      variables: its initial variables, as a function of the seed (so that resuming needs none).
      inputs: the model's inputs, arrays or `jax.ShapeDtypeStruct`, for `oto_jax.find_zigs`.
      call: keyword arguments of the model's call outside training, such as ``train=False``.
      zigs_options: options of `oto_jax.find_zigs`, such as ``unprunable``.
      optimizer: from the ZIGs to the gradient transformation.
      loss: see `experiments.training.state.LossFn`.
      batches: this host's batches from a step on, ``(local_batch, ...)`` NumPy arrays; endless.
      evaluate: from the model and its replicated variables to scores on the whole test set.
      batch_size: examples per step on all hosts.
      steps_per_epoch: length of an epoch.
      steps: length of the training.
    """

    model: nn.Module
    variables: Callable[[int], Variables]
    inputs: tuple[Any, ...]
    call: Mapping[str, Any]
    zigs_options: Mapping[str, Any]
    optimizer: Callable[[oto_jax.ZIGs], optax.GradientTransformation]
    loss: LossFn
    batches: Callable[[int], Iterator[Batch]]
    evaluate: Callable[[nn.Module, Any], dict[str, float]]
    batch_size: int
    steps_per_epoch: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Network:
    """The network that trains at the moment: the task's, or a narrower one after shrinking."""

    model: nn.Module
    zigs: oto_jax.ZIGs
    tx: optax.GradientTransformation
    steps: Callable[[Any, Any], tuple[Any, Any]]
    sparsity: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` leaves behind.

    Attributes:
      network: the network, narrower than the task's if it was shrunk.
      state: its training state, one copy on one device.
      stopped: why the run left before its last step, or None.
      minutes: time spent in all, over every time the run was started.
    """

    network: Network
    state: TrainState
    stopped: str | None
    minutes: float


def make_network(task: Task, model: nn.Module, options: RunOptions, parallel: Parallel) -> Network:
    """Finds the ZIGs of a model and compiles its training step (when it is first called)."""
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), *task.inputs, **task.call))
    zigs = oto_jax.find_zigs(model, abstract, *task.inputs, **task.call, **task.zigs_options)
    tx = task.optimizer(zigs)
    step = train_step(model, task.loss, tx, options.seed, options.accumulate)
    return Network(
        model=model,
        zigs=zigs,
        tx=tx,
        steps=par.compile_steps(parallel, many_steps(step)),
        sparsity=jax.jit(lambda params: oto_jax.group_sparsity(params, zigs)),
    )
