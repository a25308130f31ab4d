"""Trains the digits on 1 and 8 virtual devices, under pmap and on a mesh; prints the metrics."""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # Before JAX starts; whoever imports this file keeps its devices.
    os.environ.update(XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax

from experiments.training import parallel as par
from experiments.training.loop import train
from experiments.training.metrics import read_metrics
from experiments.training.options import RunOptions
from experiments.training.run_folder import open_run
from tests.experiments.digits_run import Config, make_task

CASES = {
    "one device": ("pmap", 1, {}),
    "pmap": ("pmap", 8, {}),
    "mesh, 3 steps a call": ("mesh", 8, {"steps_per_call": 3}),
}


def metrics(kind, devices, options):
    run_options = RunOptions(log_every=3, **options)
    recipe = dataclasses.replace(
        Config().recipe, epochs=1, start_epoch=0, momentum=0.0, lmbda=0.05, epsilon=0.985
    )
    config = Config(recipe=recipe, run=run_options)
    parallel = par.data_parallel(kind, jax.devices()[:devices])
    with tempfile.TemporaryDirectory() as folder, open_run(Path(folder), {}) as run:
        train(make_task(config, parallel), run_options, parallel, run)
        return read_metrics(Path(folder))


if __name__ == "__main__":
    print(json.dumps({name: metrics(*case) for name, case in CASES.items()}))
