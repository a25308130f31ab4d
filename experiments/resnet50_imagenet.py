"""ResNet-50 on ImageNet: the paper's row, on a pod of TPUs as on a miniature of the data.

``python experiments/resnet50_imagenet.py`` trains from scratch with HSPG, prunes the first two
convolutions of each bottleneck, compares the slim network with the full one on all 50,000
validation images, and writes ``results/resnet50_imagenet.json``. The data is what TensorFlow
Datasets prepares (without it the script says how), read without TensorFlow.

The paper's repository reports 74.7 % top-1 and 92.1 % top-5 with 34.5 % of the FLOPs and 35.5 % of
the parameters. Expected time, estimates from 1.9 x 10^18 multiply-accumulates at a third of the
peak in bfloat16: half a day on one A100-class GPU, an hour at most on 32 TPU v5e chips with
``--dtype bfloat16 --batch-size 1024 --learning-rate 0.4 --workers 32``, if as many images arrive:
a core prepares about 1,250 a second (measured on 224 x 224 JPEGs). The paper's batch of 256 divides
among at most 256 devices.

``--smoke`` runs the whole path in about a minute on two cores (measured: 92 seconds of processor
time), on a miniature of 1,000 classes in the same kind of files and through the same code, at a
quarter of the widths and 64 x 64 pixels.
``--compile-only v5e:2x4`` compiles the real training step, and that of a half-pruned network, for
TPUs that need not be there, and prints what it takes of each chip (measured: six minutes of
processor time for both at 1,024 images, 8.5 and 7.7 GiB of a v5e chip's 16).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

import oto_jax
from experiments.data import imagenet
from experiments.data.augmentation import normalise
from experiments.data.folders import ROOT
from experiments.data.miniature_imagenet import prepare
from experiments.errors import OptionError
from experiments.training import ahead_of_time
from experiments.training import parallel as par
from experiments.training.classification import classification_loss, evaluator
from experiments.training.options import RunOptions, check_dtype
from experiments.training.parallel import Parallel
from experiments.training.recipe import Recipe, check_cuts, hspg_optimizer, mac_costs
from experiments.training.script import parse, run_script, run_training
from experiments.training.state import abstract_state, many_steps, train_step
from experiments.training.task import Task, abstract_variables, find_zigs
from experiments.widths import quarter_width
from oto_jax.models.resnet import ResNet, ResNet50

NAME = "resnet50_imagenet"
PAPER = Recipe(
    epochs=120,
    batch_size=256,
    learning_rate=0.1,
    learning_rate_drops=(30, 60, 90),
    lmbda=1e-3,
    lmbda_drops=(35, 40, 45),
    start_epoch=30,
    epsilon=0.0,
)
# The paper prunes inside the bottlenecks; the residual streams and what writes to them stay.
STREAMS = ("stem_*", "*/conv3/*", "*/bn3/*", "*_shortcut_*")


@dataclasses.dataclass(frozen=True)
class ImageNetOptions:
    """Which data, and in what precision.

    Attributes:
      data_dir: a folder that holds TFDS's ``imagenet2012``; default: where
        `experiments.data.imagenet.find` looks.
      image_size: side of the images, in pixels.
      dtype: what the network computes in; parameters and batch statistics stay float32.
      sync_batch_norm: BatchNorm normalises with the statistics of all devices' examples together;
        without, as in the paper, with those of each device's own.
      prune_streams: prune the residual streams too, which the paper does not on ImageNet.
    """

    data_dir: Path | None = None
    image_size: int = 224
    dtype: str = "float32"
    sync_batch_norm: bool = False
    prune_streams: bool = False

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.image_size < 1:
            raise OptionError(f"--image-size must be at least 1, not {self.image_size}")


@dataclasses.dataclass(frozen=True)
class Config:
    """Trains ResNet-50 on ImageNet with HSPG and prunes it; the defaults are the paper's.

    Attributes:
      compile_only: a TPU topology such as ``v5e:2x4``: compile the training step for it and stop.
      recipe: hyperparameters.
      data: the data and how the network computes.
      run: how the run is carried out.
    """

    compile_only: str | None = None
    recipe: Recipe = PAPER
    data: ImageNetOptions = dataclasses.field(default_factory=ImageNetOptions)
    run: RunOptions = dataclasses.field(default_factory=lambda: RunOptions(workers=8))

    def __post_init__(self) -> None:
        for name in ("distillation", "uncropped_epochs"):
            if getattr(self.recipe, name):
                raise OptionError(f"--{name.replace('_', '-')} is for CIFAR-10; set it to 0 here")
        check_cuts(self.recipe, self.run.shrink_every)


MINIATURE = ROOT / "runs" / "miniature"
SMOKE = Config(
    recipe=Recipe(
        epochs=1,
        batch_size=128,
        learning_rate=0.05,
        learning_rate_drops=(),
        start_epoch=0,
        momentum=0.9,
        target_group_sparsity=0.5,
    ),
    data=ImageNetOptions(data_dir=MINIATURE, image_size=64),
    run=RunOptions(smoke=True, log_every=5, checkpoint_every=10),
)


def make_model(config: Config) -> ResNet:
    """The network at full width."""
    axis_name = par.AXIS if config.data.sync_batch_norm else None
    model = ResNet50(dtype=config.data.dtype, axis_name=axis_name)
    return quarter_width(model) if config.run.smoke else model


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    if config.data.data_dir == MINIATURE and parallel.host == 0:
        prepare(MINIATURE)
    data = imagenet.find(config.data.data_dir)
    batch_size = config.recipe.batch_size
    par.check_batch_size(parallel, batch_size, config.run.accumulate)
    hosts: dict[str, Any] = {
        "size": config.data.image_size,
        "workers": config.run.workers,
        "host": parallel.host,
        "hosts": parallel.hosts,
    }

    def batches(start: int) -> Iterator[Any]:
        return imagenet.training_batches(data, batch_size, config.run.seed, start, **hosts)

    def validation() -> Iterator[Any]:
        rows = -(-min(batch_size, data.validation) // parallel.devices) * parallel.devices
        return imagenet.validation_batches(data, rows, **hosts)

    examples = next(imagenet.validation_batches(data, 4, size=config.data.image_size))
    task = abstract_task(config, normalise(jnp.asarray(examples["image"])), data.train)
    evaluate = evaluator(_prepared, validation, parallel)
    return dataclasses.replace(task, batches=batches, evaluate=evaluate)


def reporting_input_speed(config: Config, parallel: Parallel) -> Task:
    """As `make_task`; prints how many training images a core prepares in a second."""
    task = make_task(config, parallel)
    if parallel.host == 0:
        size = config.data.image_size
        speed = imagenet.measure_decoding(imagenet.find(config.data.data_dir), 2.0, size)
        print(f"Input: {speed:.0f} images of {size} x {size} per second and core", flush=True)
    return task


def abstract_task(config: Config, images: Any, train_images: int) -> Task:
    """The task without its data: model, loss, optimizer."""
    model = make_model(config)
    recipe = config.recipe
    steps_per_epoch = max(train_images // recipe.batch_size, 1)

    def no_data(*_: Any) -> Any:
        raise AssertionError("this task was made for compiling alone")

    return Task(
        model=model,
        variables=lambda seed: jax.jit(model.init)(jax.random.key(seed), images[:1]),
        inputs=(images,),
        call={"train": False},
        zigs_options={} if config.data.prune_streams else {"unprunable": STREAMS},
        optimizer=hspg_optimizer(recipe, steps_per_epoch, mac_costs(model, images)),
        loss=classification_loss(_prepared),
        batches=no_data,
        evaluate=no_data,
        batch_size=recipe.batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=recipe.epochs * steps_per_epoch,
    )


def _prepared(batch: Any) -> jax.Array:
    return normalise(batch["image"])


def compile_only(config: Config, topology: str) -> None:
    """Compiles the training step of the full and of a half-pruned network, and prints reports."""
    parallel = ahead_of_time.tpu(topology, config.run.parallel)
    size, batch_size = config.data.image_size, config.recipe.batch_size
    par.check_batch_size(parallel, batch_size, config.run.accumulate)
    task = abstract_task(config, jnp.zeros((1, size, size, 3)), 1_281_167)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    for name, model in (("full", task.model), ("half the groups pruned", half_pruned(task))):
        zigs = find_zigs(task, model)
        tx = task.optimizer(zigs)
        step = train_step(model, task.loss, tx, config.run.seed, config.run.accumulate)
        state = abstract_state(abstract_variables(task, model), tx)
        report = ahead_of_time.compile_for(parallel, many_steps(step), state, batch)
        print(f"ResNet-50, {name}, batch {batch_size}, {config.data.dtype}, {parallel.kind}")
        print(report, flush=True)


def half_pruned(task: Task) -> Any:
    """The task's network after every other group of each space was cut."""
    variables = task.variables(0)
    zigs = find_zigs(task, task.model)
    odd = [group for space in zigs.spaces for group in list(space.groups)[1::2]]
    dead = np.isin(np.arange(zigs.num_groups), odd)
    params = jax.tree.map(
        lambda param, groups: jnp.where(dead[groups] & (groups >= 0), 0, param),
        variables["params"],
        zigs.masks,
    )
    return oto_jax.prune(task.model, {**variables, "params": params}, zigs).model


def main() -> None:
    """Trains, prunes, compares; or compiles for a TPU."""
    config = parse(Config(), SMOKE, __doc__)
    if config.compile_only is not None:
        compile_only(config, config.compile_only)
        return
    run_training(NAME, config, reporting_input_speed)


if __name__ == "__main__":
    run_script(main)
