"""A training run small enough for tests: scikit-learn's digits through the experiments' own loop.

As a program it takes the options of every run and prints the last metrics as JSON.
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.datasets import load_digits

from experiments.data.batches import evaluation_batches, training_batches
from experiments.training import parallel as par
from experiments.training.classification import classification_loss, evaluator
from experiments.training.finish import finish
from experiments.training.loop import train
from experiments.training.options import RunOptions, to_json
from experiments.training.recipe import Recipe, hspg_optimizer
from experiments.training.run_folder import open_run
from experiments.training.script import run_script, start
from experiments.training.task import Task


@dataclasses.dataclass(frozen=True)
class Config:
    """A run on the digits."""

    recipe: Recipe = dataclasses.field(
        default_factory=lambda: Recipe(
            epochs=2,
            batch_size=64,
            learning_rate=0.2,
            learning_rate_drops=(),
            lmbda=0.02,
            start_epoch=1,
            momentum=0.9,
            epsilon=0.99,
        )
    )
    dropout: float = 0.0
    run: RunOptions = dataclasses.field(default_factory=RunOptions)


class Net(nn.Module):
    """Two convolutions with BatchNorm, synchronised over the devices."""

    widths: tuple[int, int] = (8, 16)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        for width in self.widths:
            x = nn.Conv(width, (3, 3), strides=2, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, axis_name=par.AXIS)(x))
        x = nn.Dropout(self.dropout)(x.mean((1, 2)), deterministic=not train)
        return nn.Dense(10)(x)


def digits():
    data = load_digits()
    images = (data.images[..., None] / 16).astype(np.float32)
    return images, data.target.astype(np.int32)


def make_task(config, parallel):
    par.check_batch_size(parallel, config.recipe.batch_size, config.run.accumulate)
    images, labels = digits()
    training = {"image": images[:1000], "label": labels[:1000]}
    test = {"image": images[1000:], "label": labels[1000:]}
    hosts = (parallel.host, parallel.hosts)
    size, seed = config.recipe.batch_size, config.run.seed
    model = Net(dropout=config.dropout)
    steps_per_epoch = 1000 // size

    def prepared(batch):
        return batch["image"]

    return Task(
        model=model,
        variables=lambda seed: jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 8, 8, 1))),
        inputs=(jnp.asarray(images[:8]),),
        call={"train": False},
        zigs_options={},
        optimizer=hspg_optimizer(config.recipe, steps_per_epoch),
        loss=classification_loss(prepared),
        batches=lambda start: training_batches(training, size, seed, start, *hosts),
        evaluate=evaluator(prepared, lambda: evaluation_batches(test, 128, *hosts), parallel),
        batch_size=size,
        steps_per_epoch=steps_per_epoch,
        steps=config.recipe.epochs * steps_per_epoch,
    )


def main():
    config = tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,))
    parallel = start(config.run)
    task = make_task(config, parallel)
    with open_run(config.run.workdir, {"script": "digits", **to_json(config)}) as run:
        trained = train(task, config.run, parallel, run)
        if config.run.shrink_every and not trained.stopped:
            finish(task, trained, parallel, run, to_json(config), run.path / "results.json")
    params = jax.device_get(trained.state.params)
    if parallel.host == 0:
        np.savez(config.run.workdir / "params.npz", *jax.tree.leaves(params))
    print(json.dumps({"step": int(trained.state.step), "stopped": trained.stopped}))


if __name__ == "__main__":
    run_script(main)
