"""The peer's row of the accuracy table: Torch-Pruning's group pruner on a published CIFAR ResNet.

``python benchmarks/torch_pruning_cifar10.py --depth 20`` takes the checkpoint that
``experiments/resnet_cifar10.py`` starts from, and the same budget: as many epochs in all, over the
same training images in batches of the same size, with the same kind of augmentation; the accuracy
is that on the same test images. Half of the epochs train sparsely, as Fang et al. (*DepGraph*, CVPR
2023, section 3.3) do; then one cut to the asked share of the multiply-accumulates; the rest
fine-tunes. All other settings are those of their repository for CIFAR-10 (``reproduce/main.py``):
learning rate 0.01 with its drops at 60 and 80 % of each half, no weight decay while training
sparsely and 5e-4 after, regulariser 5e-4, one ranking over all layers by norms divided by their
largest. They train 100 epochs in each half.

It runs in the environment that `make peers` sets up, keeps its state in ``runs/NAME`` after each
epoch, goes on from there, and writes ``results/NAME.json``. Expected on two cores: an epoch over
50,000 images in 5 minutes (ResNet-20), 14 (ResNet-56), both estimates; for a try, ``--epochs 2
--train-images 512 --test-images 500 --results /tmp/tried.json --workdir /tmp/tried``.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.environment import PeersMissingError, interpreter
from experiments.data.folders import data_folder
from experiments.results import ROOT, commit, write_results
from experiments.training.run_folder import open_run
from experiments.training.script import run_script

SCRIPT = Path(__file__).parent / "peers" / "group_pruner.py"


@dataclasses.dataclass(frozen=True)
class Config:
    """Prunes a CIFAR ResNet with Torch-Pruning.

    Attributes:
      depth: number of layers.
      epochs: of sparse training and fine-tuning together.
      sparse_epochs: of these, before the cut; default: half.
      batch_size: images of a step.
      learning_rate: at the start of each half.
      learning_rate_drops: shares of each half after which the learning rate is multiplied by 0.1.
      momentum: of SGD.
      weight_decay: while fine-tuning.
      regularisation: weight of the group-norm regulariser.
      distillation: weight of learning from a published network, beside the labels; 0 as its
        authors have it, 0.9 as `experiments/resnet_cifar10.py`.
      teacher: the depth of that network; default: the one that is pruned.
      temperature: by which logits are divided there.
      uncropped_epochs: the last epochs, in which images are mirrored but not cropped; 0 as its
        authors have it, 2 as `experiments/resnet_cifar10.py`.
      global_pruning: rank the groups of all layers together, instead of cutting each alike.
      max_pruning_ratio: no layer loses more than this share.
      target_macs: what is left of the multiply-accumulates.
      train_images: train on the first so many; None: all 50,000.
      test_images: evaluate on the first so many; None: all 10,000.
      seed: of the order of the images and of their crops and flips.
      checkpoint: an .npz with the published weights; default: in the shared data.
      name: of the run; default: by the depth.
      workdir: where the state is kept; default: ``runs/NAME``.
      results: the result file; default: ``results/NAME.json``.
    """

    depth: Literal[20, 32, 44, 56] = 20
    epochs: int = 10
    sparse_epochs: int | None = None
    batch_size: int = 128
    learning_rate: float = 0.01
    learning_rate_drops: tuple[float, ...] = (0.6, 0.8)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    regularisation: float = 5e-4
    distillation: float = 0.0
    teacher: Literal[20, 32, 44, 56] | None = None
    temperature: float = 4.0
    uncropped_epochs: int = 0
    global_pruning: bool = True
    max_pruning_ratio: float = 1.0
    target_macs: float = 0.5
    train_images: int | None = None
    test_images: int | None = None
    seed: int = 0
    checkpoint: Path | None = None
    name: str | None = None
    workdir: Path | None = None
    results: Path | None = None

    @property
    def run_name(self) -> str:
        """The run's name."""
        return self.name or f"torch_pruning_resnet{self.depth}_cifar10"


PLACES = ("checkpoint", "name", "workdir", "results")


def request(config: Config, folder: Path) -> dict[str, Any]:
    """What the other side is asked, as JSON values."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in PLACES}
    if config.sparse_epochs is None:
        settings["sparse_epochs"] = config.epochs // 2
    if not 0 <= settings["sparse_epochs"] < config.epochs:
        sys.exit("--sparse-epochs must leave an epoch to fine-tune in")
    checkpoint = config.checkpoint or published(config.depth)
    teacher = checkpoint if config.teacher is None else published(config.teacher)
    places = {"checkpoint": checkpoint, "teacher_checkpoint": teacher, "folder": folder}
    return {**settings, **{name: str(path.absolute()) for name, path in places.items()}}


def settings_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the figures, without places."""
    return {k: v for k, v in asked.items() if not k.endswith(("checkpoint", "folder"))}


def published(depth: int) -> Path:
    """The checkpoint of a depth in the shared data."""
    found = sorted((data_folder() / "resnet_cifar10").glob(f"resnet{depth}-*.npz"))
    if not found:
        sys.exit(f"there is no published ResNet-{depth}; give one as --checkpoint")
    return found[0]


def main(config: Config) -> None:
    """Runs the other side to its end and writes what it found."""
    commit()  # Remembered from here on, whatever happens to the code while the run goes on.
    folder = (config.workdir or ROOT / "runs" / config.run_name).absolute()
    try:
        python = interpreter()
    except PeersMissingError as error:
        sys.exit(f"skipped: {error}")
    asked = request(config, folder)
    settings = settings_of(asked)
    command = [str(python), str(SCRIPT), json.dumps(asked)]
    with open_run(folder, settings):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit("the other side ended with an error, see above; the same command goes on")
    figures = json.loads(done.stdout.splitlines()[-1])
    for count in ("macs", "parameters"):
        figures["pruned"][f"kept_{count}"] = figures["pruned"][count] / figures["dense"][count]
    path = config.results or ROOT / "results" / f"{config.run_name}.json"
    write_results(path, {**figures, "config": settings}, seed=config.seed)
    dense, pruned = figures["dense"], figures["pruned"]
    print(
        f"top-1 {dense['top1']:.2f} -> {pruned['top1']:.2f} % with {pruned['kept_macs']:.1%} of the"
        f" multiply-accumulates and {pruned['kept_parameters']:.1%} of the parameters, in"
        f" {figures['training_minutes']:.1f} minutes"
    )


if __name__ == "__main__":
    run_script(lambda: main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,))))
