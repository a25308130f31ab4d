"""Prunes a checkpoint: what a training script does at its end, at any time, on its own.

``python experiments/prune.py --workdir runs/vgg16_bn_cifar10`` takes the newest checkpoint of that
run (it may still go on elsewhere), cuts every zero group out, measures by how much the slim
network's outputs differ, evaluates both on the whole test set, and saves the slim one in ``--out``.
The last line is JSON. Expected time: that of evaluating twice.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import tyro

import oto_jax
from experiments.errors import MissingDataError
from experiments.training import run_folder
from experiments.training.finish import prune_and_compare
from experiments.training.loop import restore
from experiments.training.options import RunOptions, from_json
from experiments.training.parallel import Kind
from experiments.training.script import run_script, start
from experiments.training.state import variables_of

MODULES = {
    "vgg16_cifar10": "vgg16_cifar10",
    "vgg16_bn_cifar10": "vgg16_bn_cifar10",
    "resnet50_cifar10": "resnet50_cifar10",
    "resnet50_imagenet": "resnet50_imagenet",
    **{f"resnet{depth}_cifar10": "resnet_cifar10" for depth in (20, 32, 44, 56)},
    **{f"bert_squad_{row}": "bert_squad" for row in (10, 30, 50, 70, 90)},
    "bert_squad": "bert_squad",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Prunes the newest checkpoint of a run.

    Attributes:
      workdir: the run's folder.
      out: where the slim model goes; default: in the run's folder, ``slim`` or, with ``step``,
        ``slim-STEP``.
      step: which checkpoint; default: the newest.
      parallel: ``pmap``, or ``jit`` over a mesh of devices, for the evaluations.
    """

    workdir: Path
    out: Path | None = None
    step: int | None = None
    parallel: Kind = "pmap"


def prune_checkpoint(config: Config) -> dict[str, Any]:
    """Prunes, compares, evaluates, saves; returns the figures.

    Raises:
      MissingDataError: if the folder holds no run of a known script, or no checkpoint.
    """
    record = run_folder.read_config(config.workdir)
    if record.get("script") not in MODULES:
        raise MissingDataError(
            f"{config.workdir} is a run of {record.get('script')!r}; this script knows"
            f" {', '.join(MODULES)}"
        )
    script = importlib.import_module(f"experiments.{MODULES[record.pop('script')]}")
    trained = from_json(script.Config(), record)
    parallel = start(RunOptions(parallel=config.parallel))
    task = script.make_task(trained, parallel)
    with run_folder.read_run(config.workdir) as run:
        network, state, _ = restore(task, trained.run, parallel, run, config.step)
        outcome = prune_and_compare(task, network, variables_of(state), parallel, run)
    older = "" if config.step is None else f"-{config.step}"
    out = config.out or config.workdir / f"slim{older}"
    if parallel.host == 0:
        oto_jax.save(out, outcome.pruned, overwrite=True)
    return {"step": int(state.step), "slim_model": str(out), **outcome.figures}


def main() -> None:
    """Prunes what the command line names."""
    figures = prune_checkpoint(tyro.cli(Config))
    if jax.process_index() == 0:
        print(json.dumps(figures))


if __name__ == "__main__":
    run_script(main)
