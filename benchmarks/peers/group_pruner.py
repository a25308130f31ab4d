"""Torch-Pruning's group pruner on a CIFAR ResNet; runs in the peers' environment.

Sparse training with the group-norm regulariser (Fang et al., *DepGraph*, CVPR 2023, section 3.3),
one cut to the asked multiply-accumulates by a ranking of group norms, fine-tuning. The batches
are those of this project's experiments; crops and flips are drawn alike, though not the same.

The one argument is a JSON object, see `benchmarks/torch_pruning_cifar10.py`; the last line printed
is JSON too. The state after each epoch is kept, and the same call goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch_pruning
from torch.nn import functional as F

from benchmarks.peers.cifar_resnet import (
    CifarResNet,
    ZeroPadding,
    ZeroPaddingPruner,
    count_macs,
    count_parameters,
    load,
)
from experiments.data import cifar10
from experiments.data.batches import training_batches

# Of ImageNet, as everywhere in this project.
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
PAD, STEPS_OF_THE_CUT = 4, 400
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclasses.dataclass(frozen=True)
class Config:
    """See `benchmarks/torch_pruning_cifar10.py`."""

    depth: int
    checkpoint: str
    teacher_checkpoint: str
    folder: str
    epochs: int
    sparse_epochs: int
    batch_size: int
    learning_rate: float
    learning_rate_drops: list[float]
    momentum: float
    weight_decay: float
    regularisation: float
    distillation: float
    teacher: int | None
    temperature: float
    uncropped_epochs: int
    global_pruning: bool
    max_pruning_ratio: float
    target_macs: float
    train_images: int | None
    test_images: int | None
    seed: int


@dataclasses.dataclass
class State:
    """What goes on from epoch to epoch."""

    model: CifarResNet
    optimizer: torch.optim.SGD
    teacher: CifarResNet
    epoch: int
    minutes: float
    notes: dict[str, Any]


def tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 images ``(n, 32, 32, 3)`` as normalised ``(n, 3, 32, 32)``, on the device."""
    normal = (images.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(normal.astype(np.float32).transpose(0, 3, 1, 2).copy()).to(DEVICE)


def crop_and_flip(images: np.ndarray, rng: np.random.Generator, cropped: bool) -> np.ndarray:
    """Random crops of the images in a black frame, or whole images; half of them mirrored."""
    count, size = len(images), images.shape[1]
    framed = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    corners = rng.integers(0, 2 * PAD + 1, (2, count, 1))
    rows, columns = (corners if cropped else np.full_like(corners, PAD)) + np.arange(size)
    flipped = rng.random((count, 1)) < 0.5
    columns = np.where(flipped, columns[:, ::-1], columns)
    return framed[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def evaluate(model: CifarResNet, test: cifar10.LabelledImages) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(test), 500):
            found = model(tensor(test.images[start : start + 500])).argmax(1).cpu().numpy()
            right += int(np.sum(found == test.labels[start : start + 500]))
    return 100 * right / len(test)


def group_pruner(model: CifarResNet, config: Config) -> Any:
    """Torch-Pruning's own, groups ranked by their norm over the largest of their layers."""
    return torch_pruning.pruner.GroupNormPruner(
        model,
        torch.zeros(1, 3, 32, 32, device=DEVICE),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer="max"),
        reg=config.regularisation,
        global_pruning=config.global_pruning,
        pruning_ratio=1.0,
        max_pruning_ratio=config.max_pruning_ratio,
        iterative_steps=STEPS_OF_THE_CUT,
        ignored_layers=[model.linear],
        customized_pruners={ZeroPadding: ZeroPaddingPruner()},
    )


def cut(model: CifarResNet, config: Config) -> dict[str, int]:
    """Prunes in small steps until the multiply-accumulates are down to the target."""
    pruner, full = group_pruner(model, config), count_macs(model)
    for _ in range(STEPS_OF_THE_CUT):
        if count_macs(model) <= config.target_macs * full:
            break
        pruner.step()
    return {"macs": count_macs(model), "parameters": count_parameters(model)}


def sgd(model: CifarResNet, config: Config) -> torch.optim.SGD:
    """A fresh optimizer for the model's parameters."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def learning_rate(epoch: int, config: Config) -> float:
    """That of an epoch; each half has its own drops."""
    half = config.sparse_epochs if epoch < config.sparse_epochs else config.epochs
    start = 0 if epoch < config.sparse_epochs else config.sparse_epochs
    gone = (epoch - start) / (half - start)
    return config.learning_rate * 0.1 ** sum(gone >= drop for drop in config.learning_rate_drops)


def distillation_loss(
    teacher: CifarResNet, inputs: torch.Tensor, logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """As `experiments.training.classification.Distillation`: T^2 KL(teacher || student)."""
    with torch.no_grad():
        said = F.softmax(teacher(inputs) / temperature, dim=1)
    heard = F.log_softmax(logits / temperature, dim=1)
    return temperature**2 * F.kl_div(heard, said, reduction="batchmean")


def train_epoch(
    state: State, config: Config, batches: Iterator[dict[str, np.ndarray]], steps: int
) -> float:
    """One epoch, sparse or fine-tuning by its number; returns the mean loss."""
    sparse = state.epoch < config.sparse_epochs
    pruner = group_pruner(state.model, config) if sparse else None
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(state.epoch, config)
        group["weight_decay"] = 0.0 if sparse else config.weight_decay
    cropped = state.epoch < config.epochs - config.uncropped_epochs
    state.model.train()
    losses = []
    for number, batch in enumerate(itertools.islice(batches, steps)):
        rng = np.random.default_rng((config.seed, state.epoch, number))
        inputs = tensor(crop_and_flip(batch["image"], rng, cropped))
        logits = state.model(inputs)
        labels = torch.from_numpy(batch["label"].astype(np.int64)).to(DEVICE)
        loss = F.cross_entropy(logits, labels)
        if config.distillation:
            taught = distillation_loss(state.teacher, inputs, logits, config.temperature)
            loss = (1 - config.distillation) * loss + config.distillation * taught
        state.optimizer.zero_grad()
        loss.backward()
        if pruner is not None:
            pruner.regularize(state.model)
        state.optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def begin(config: Config, test: cifar10.LabelledImages) -> State:
    """The newest state, or the published network's."""
    kept = Path(config.folder) / "state.pt"
    if kept.exists():  # written by this script alone, so that pickles of it may be read
        return torch.load(kept, map_location=DEVICE, weights_only=False)
    model = load(config.depth, Path(config.checkpoint)).to(DEVICE)
    teacher = load(config.teacher or config.depth, Path(config.teacher_checkpoint)).to(DEVICE)
    teacher.eval()
    notes = {
        "dense_top1": evaluate(model, test),
        "dense_macs": count_macs(model),
        "dense_parameters": count_parameters(model),
        "epochs": [],
    }
    return State(model, sgd(model, config), teacher, 0, 0.0, notes)


def keep(state: State, config: Config) -> None:
    """Writes the state, whole or not at all, also where the machine loses power."""
    path = Path(config.folder) / "state.pt"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps the folder for this process, which may outlive the one that started it."""
    with (folder / "state.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process is still training in {folder}; wait for it or end it")
        yield


def run_epoch(
    state: State, config: Config, train: cifar10.LabelledImages, test: cifar10.LabelledImages
) -> None:
    """Cuts where it is time, trains an epoch, evaluates, keeps the state."""
    start = time.monotonic()
    if state.epoch == config.sparse_epochs:
        state.notes["top1_before_cut"] = evaluate(state.model, test)
        state.notes |= cut(state.model, config)
        state.notes["top1_after_cut"] = evaluate(state.model, test)
        state.optimizer = sgd(state.model, config)
    steps = len(train) // config.batch_size
    arrays = {"image": train.images, "label": train.labels}
    batches = training_batches(arrays, config.batch_size, config.seed, state.epoch * steps)
    loss = train_epoch(state, config, batches, steps)
    top1 = evaluate(state.model, test)
    state.epoch += 1
    state.minutes += (time.monotonic() - start) / 60
    state.notes["epochs"].append({"loss": loss, "top1": top1})
    keep(state, config)
    print(f"epoch {state.epoch}: loss {loss:.4f}, top-1 {top1:.2f}", file=sys.stderr, flush=True)


def main(config: Config) -> None:
    """Trains from where the folder's state left off; prints the figures."""
    torch.manual_seed(config.seed)
    train = cifar10.load("train").first(config.train_images)
    test = cifar10.load("test").first(config.test_images)
    state = begin(config, test)
    while state.epoch < config.epochs:
        run_epoch(state, config, train, test)
    notes = state.notes
    figures = {
        "dense": {
            "top1": notes["dense_top1"],
            "macs": notes["dense_macs"],
            "parameters": notes["dense_parameters"],
        },
        "pruned": {
            "top1": notes["epochs"][-1]["top1"],
            "macs": notes["macs"],
            "parameters": notes["parameters"],
            "top1_before_cut": notes["top1_before_cut"],
            "top1_after_cut": notes["top1_after_cut"],
        },
        "epochs": notes["epochs"],
        "test_examples": len(test),
        "train_examples": len(train),
        "training_minutes": state.minutes,
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "peers": {name: importlib.metadata.version(name) for name in ("torch", "torch-pruning")},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    given = Config(**json.loads(sys.argv[1]))
    with held(Path(given.folder)):
        main(given)
