"""CIFAR ResNet-20, 32, 44 and 56: pruned from published weights, or trained from scratch.

``python experiments/resnet_cifar10.py --depth 20`` starts from the published ResNet-20 (91.73 %
top-1 in 40.6 million multiply-accumulates) and trains ten epochs with HSPG: in the first three,
zero groups free half of the multiply-accumulates; meanwhile and afterwards the network learns from
the labels and from what it said itself at the start. The settings come from a screening
(``benchmarks/screening.py``), though the gain over earlier ones is within the seeds' noise. Then it
prunes, compares, and writes
``results/resnet20_cifar10.json``. With ``--shrink-every 1`` dead groups are cut out of the network
after each epoch. Half of a ResNet-56 gone, a step then takes 1.6 instead of 1.9 seconds on two CPU
cores: convolutions with so few channels run at a fraction of a processor's speed.

``--eval-only`` evaluates the published weights on the 10,000 test images: 91.73, 92.63, 93.10 and
93.39 % for 20, 32, 44 and 56 layers. The last line is JSON with ``top1``.

Expected time: an epoch over 50,000 images in 7 minutes on one CPU core (ResNet-20, from ten epochs
beside other work), in 12 on two (ResNet-56, with the flags for CPUs of docs/how_to/devices.md,
without them 20); evaluating takes 12 to 28 seconds, ``--smoke``, the whole path, half a minute
(measured: 46 seconds of processor time).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

from experiments.cifar10_task import Cifar10Options, cifar10_evaluator, cifar10_task
from experiments.data import cifar10
from experiments.data.folders import data_folder
from experiments.errors import DamagedDataError, MissingDataError
from experiments.training import parallel as par
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.recipe import Recipe
from experiments.training.script import parse, run_script, run_training, start
from experiments.training.task import Task
from oto_jax.models.checkpoints import TorchCheckpointError, load_cifar_resnet
from oto_jax.models.resnet import CifarResNet, ResNet20, ResNet32, ResNet44, ResNet56

Depth = Literal[20, 32, 44, 56]
MODELS: Mapping[Depth, Callable[..., CifarResNet]] = {
    20: ResNet20,
    32: ResNet32,
    44: ResNet44,
    56: ResNet56,
}
HALF = Recipe(
    epochs=10,
    batch_size=128,
    learning_rate=0.02,
    learning_rate_drops=(),
    cosine=True,
    lmbda=1e-3,
    lmbda_drops=(3,),
    start_epoch=0,
    momentum=0.9,
    base="nesterov",
    weight_decay=5e-4,
    target_macs=0.5,
    target_epochs=3,
    saliency="squared_taylor",
    per_cost=True,
    distillation=0.9,
    uncropped_epochs=2,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Prunes a CIFAR ResNet.

    Attributes:
      depth: number of layers.
      from_scratch: train from random weights instead of the published ones: set --epochs to 200 or
        so, --start-epoch and --target-epochs to a tenth and to half of that, and --distillation to
        0 or give a --teacher.
      checkpoint: an .npz with the published weights; default: in the shared data.
      teacher: learn from the published network of this depth, where the recipe has distillation;
        default: from the one that is pruned, as it was at the start.
      eval_only: evaluate the published weights and train nothing.
      recipe: hyperparameters.
      data: the data and how the network computes.
      run: how the run is carried out.
    """

    depth: Depth = 20
    from_scratch: bool = False
    checkpoint: Path | None = None
    teacher: Depth | None = None
    eval_only: bool = False
    recipe: Recipe = HALF
    data: Cifar10Options = dataclasses.field(default_factory=Cifar10Options)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)


SMOKE = Config(
    recipe=dataclasses.replace(
        HALF,
        epochs=4,
        batch_size=64,
        learning_rate=0.01,
        learning_rate_drops=(),
        start_epoch=1,
        target_epochs=2,
    ),
    data=Cifar10Options(train_images=512, test_images=500),
    run=RunOptions(smoke=True, log_every=8, checkpoint_every=8),
)


def published(config: Config) -> tuple[CifarResNet, dict[str, Any]]:
    """The published network of the configuration's depth.

    Raises:
      MissingDataError: if there is no such file.
      DamagedDataError: if the file is damaged or of another network.
    """
    folder = data_folder() / "resnet_cifar10"
    found = sorted(folder.glob(f"resnet{config.depth}-*.npz"))
    path = config.checkpoint or (found[0] if found else folder / f"resnet{config.depth}-*.npz")
    try:
        model, variables = load_cifar_resnet(path, **config.data.model_fields)
    except FileNotFoundError:
        raise MissingDataError(
            f"there is no {path}: convert resnet{config.depth}*.th of"
            " github.com/akamaster/pytorch_resnet_cifar10 with numpy.savez(path, **state_dict)"
            " (names without 'module.') and give it as --checkpoint, or use --from-scratch"
        ) from None
    except TorchCheckpointError as error:
        raise DamagedDataError(str(error)) from error
    if model != MODELS[config.depth](**config.data.model_fields):
        raise DamagedDataError(f"{path} is no ResNet-{config.depth}; set --depth accordingly")
    return model, variables


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    teacher = None
    if config.teacher is not None:
        teacher = published(dataclasses.replace(config, depth=config.teacher, checkpoint=None))
    if config.from_scratch:
        model = MODELS[config.depth](**config.data.model_fields)
        return cifar10_task(
            model, config.recipe, config.data, config.run, parallel, teacher=teacher
        )
    model, weights = published(config)
    return cifar10_task(
        model,
        config.recipe,
        config.data,
        config.run,
        parallel,
        variables=lambda seed: weights,
        teacher=teacher or (model, weights),
    )


def evaluate_published(config: Config) -> dict[str, float]:
    """Scores of the published weights on the test set."""
    parallel = start(config.run)
    model, variables = published(config)
    test = cifar10.load("test", config.data.data_dir).first(config.data.test_images)
    evaluate = cifar10_evaluator(test, parallel)
    return evaluate(model, par.replicate(parallel, variables))


def main() -> None:
    """Evaluates, or trains, prunes and compares."""
    config = parse(Config(), SMOKE, __doc__)
    if not config.eval_only:
        run_training(f"resnet{config.depth}_cifar10", config, make_task)
        return
    scores = evaluate_published(config)
    if jax.process_index() == 0:
        print(json.dumps({"model": f"ResNet-{config.depth}", **scores}))


if __name__ == "__main__":
    run_script(main)
