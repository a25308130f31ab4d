"""What the loop trains: everything that depends on the model and the data."""

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
from experiments.training.state import Batch, LossFn, Variables, many_steps, train_step


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
    """The network that trains at the moment: the task's, or a narrower one after a cut.

    Attributes:
      model: the model.
      zigs: its groups.
      tx: its optimizer.
      steps: training steps on all devices.
      sparsity: from one copy of the parameters to `oto_jax.group_sparsity`.
      cuts: names of the cuts that led here from the task's model.
    """

    model: nn.Module
    zigs: oto_jax.ZIGs
    tx: optax.GradientTransformation
    steps: Callable[[Any, Any], tuple[Any, Any]]
    sparsity: Callable[[Any], Any]
    cuts: tuple[str, ...]


def make_network(
    task: Task,
    options: RunOptions,
    parallel: Parallel,
    model: nn.Module,
    zigs: oto_jax.ZIGs,
    cuts: tuple[str, ...] = (),
) -> Network:
    """Prepares a model's training step, which compiles when it is first called."""
    tx = task.optimizer(zigs)
    step = train_step(model, task.loss, tx, options.seed, options.accumulate)
    return Network(
        model=model,
        zigs=zigs,
        tx=tx,
        steps=par.compile_steps(parallel, many_steps(step)),
        sparsity=jax.jit(lambda params: oto_jax.group_sparsity(params, zigs)),
        cuts=cuts,
    )


def find_zigs(task: Task, model: nn.Module) -> oto_jax.ZIGs:
    """The groups of a task's model, without computing anything."""
    variables = abstract_variables(task, model)
    return oto_jax.find_zigs(model, variables, *task.inputs, **task.call, **task.zigs_options)


def abstract_variables(task: Task, model: nn.Module) -> Variables:
    """Shapes and dtypes of a model's variables."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *task.inputs, **task.call))
