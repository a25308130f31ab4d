"""Training state and step: frozen data, and a pure function of one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.training.parallel import AXIS

Batch = Any
Metrics = Mapping[str, jax.Array]
Variables = dict[str, Any]
# (model, variables, batch, key) -> (mean loss, (collections but "params" afterwards, means))
LossFn = Callable[
    [nn.Module, Variables, Batch, jax.Array], tuple[jax.Array, tuple[Variables, Metrics]]
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: number of steps taken, int32 scalar; with the seed it is also the data's position.
      params: the trainable parameters, float32.
      model_state: the model's other collections, such as BatchNorm's running statistics.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Any
    model_state: Variables
    opt_state: Any


def create_state(variables: Variables, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    params = variables["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, rest, tx.init(params))


def abstract_state(shapes: Variables, tx: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of the state before the first step, from those of the variables."""
    state: TrainState = jax.eval_shape(lambda variables: create_state(variables, tx), shapes)
    return state


def variables_of(state: TrainState) -> Variables:
    """The variables that the model is applied to."""
    return {"params": state.params, **state.model_state}


def train_step(
    model: nn.Module,
    loss: LossFn,
    tx: optax.GradientTransformation,
    seed: int,
    accumulate: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """One optimizer step, as one of the devices along `AXIS` runs it.

    Gradients, metrics and the model's other collections are averaged over the devices, so all
    replicas stay equal. A BatchNorm without ``axis_name`` normalises with its own device's
    statistics; only its running averages are averaged.

    Args:
      model: what is trained.
      loss: see `LossFn`; its key differs between steps, devices and accumulation steps.
      tx: the optimizer.
      seed: of the loss's keys.
      accumulate: number of equal parts that the device's batch is run in, one after another;
        their gradients are averaged.

    Returns:
      ``(state, batch) -> (state, metrics)``, batch leaves ``(per_device_batch, ...)``.
    """

    def part(
        params: Any, model_state: Variables, batch: Batch, key: jax.Array
    ) -> tuple[Any, Variables, Metrics]:
        def objective(params: Any) -> tuple[jax.Array, tuple[Variables, Metrics]]:
            return loss(model, {"params": params, **model_state}, batch, key)

        (value, (model_state, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return grads, model_state, {"loss": value, **metrics}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
        if accumulate == 1:
            result = part(state.params, state.model_state, batch, key)
        else:
            result = _accumulated(part, state, batch, key, accumulate)
        grads, model_state, metrics = jax.lax.pmean(result, AXIS)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, model_state, opt_state), metrics

    return step


def _accumulated(
    part: Callable[..., tuple[Any, Variables, Metrics]],
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    count: int,
) -> tuple[Any, Variables, Metrics]:
    parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)

    def body(model_state: Variables, inputs: tuple[Batch, jax.Array]) -> tuple[Variables, Any]:
        grads, model_state, metrics = part(state.params, model_state, *inputs)
        return model_state, (grads, metrics)

    def add(carry: tuple[Variables, Any], inputs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        model_state, sums = carry
        model_state, found = body(model_state, inputs)
        return (model_state, jax.tree.map(jnp.add, sums, found)), None

    keys = jax.random.split(key, count)
    first = jax.tree.map(lambda a: a[0], (parts, keys))
    rest = jax.tree.map(lambda a: a[1:], (parts, keys))
    (model_state, sums), _ = jax.lax.scan(add, body(state.model_state, first), rest)
    grads, metrics = jax.tree.map(lambda total: total / count, sums)
    return grads, model_state, metrics


def many_steps(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The steps of one dispatch: batch leaves ``(steps, per_device_batch, ...)``.

    Returns:
      ``(state, batches) -> (state, metrics)``; each metric has the shape ``(steps,)``.
    """

    def steps(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
        if np.shape(jax.tree.leaves(batches)[0])[0] > 1:
            return jax.lax.scan(step, state, batches)
        # Without a loop, which would cost the CPU's compiler its fast convolutions.
        state, metrics = step(state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda m: m[None], metrics)

    return steps
