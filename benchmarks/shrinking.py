"""What cutting dead groups out during training saves: total time with and without `--shrink-every`.

``python benchmarks/shrinking.py`` trains the published ResNet-20 on CIFAR-10's first images three
times, with the experiments' own loop, over the same batches:

* ``dense``: momentum SGD, nothing else;
* ``hspg``: HSPG to a quarter of the multiply-accumulates within the first epochs, cut at the end;
* ``hspg, shrinking``: the same, with the zero groups cut out at the end of every so many epochs.

Total time is the wall time of the whole call: discovery, compilation (that of each narrower
network's step too), cuts, steps, logs; the processor time of all threads, which other programs on
the machine change less, stands beside it. The bound: shrinking takes at most 0.75 of the wall time
of HSPG without. A cut costs some ten seconds, most of them compilation, so that the longer the
training, the smaller the ratio.

Each runs once, in this order, so the ratios have no spread, and a machine that slows down meanwhile
counts against shrinking. The training is a best case: the target is reached within the second
epoch, the cut follows at its end, and the 20 epochs after it run at a quarter of the
multiply-accumulates. A target that is reached later leaves less to save; the result file says how
many epochs ran before each cut (``epochs_before_cuts``).

Both end in the same network up to rounding, which training makes grow: in float32, hundreds of
steps later, some test images of little certainty fall into another class. How many is shown; and a
training in float64, with and without cuts, has to put every test image into the same class. It has
fewer images, since float64 takes four times as long; ``--exact-images 1600`` makes it as long as
the other, and then its times say as much.

It writes ``results/shrinking.json``. Expected: ten minutes on two quiet cores, a quarter of an hour
more with ``--exact-images 1600``; for a try, ``--epochs 5 --exact-epochs 5 --train-images 256
--results /tmp/tried.json``, which is too short to gain.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from benchmarks.bounds import Bound, leave_if_over, record, show
from experiments.cifar10_task import Cifar10Options
from experiments.data import cifar10
from experiments.data.augmentation import normalise
from experiments.errors import MissingDataError
from experiments.resnet_cifar10 import Config as RunConfig
from experiments.resnet_cifar10 import Depth, make_task
from experiments.results import ROOT, write_results
from experiments.training.loop import Trained, train
from experiments.training.options import RunOptions, to_json
from experiments.training.recipe import Recipe
from experiments.training.run_folder import open_run
from experiments.training.script import start
from experiments.training.state import variables_of
from experiments.training.task import Task

BOUND = 0.75
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to train.

    Attributes:
      depth: of the CIFAR ResNet.
      epochs: of every run.
      batch_size: images of a step.
      train_images: images of an epoch.
      test_images: on which the predictions are compared.
      learning_rate: of the first steps; with HSPG a tenth of it once the target's window has ended.
      target_macs: what is left of the multiply-accumulates.
      target_epochs: the length of the window, which begins with the second epoch.
      shrink_every: epochs between cuts.
      exact_epochs: of the training in float64.
      exact_images: images of its epoch.
      seed: of the order of the images and of what is drawn to augment them.
      results: the result file.
    """

    depth: Depth = 20
    epochs: int = 22
    batch_size: int = 64
    train_images: int = 1600
    test_images: int = 2000
    learning_rate: float = 0.01
    target_macs: float = 0.25
    target_epochs: int = 1
    shrink_every: int = 2
    exact_epochs: int = 22
    exact_images: int = 320
    seed: int = 0
    results: Path = ROOT / "results" / "shrinking.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished training and what it took.

    Attributes:
      trained: the network.
      figures: JSON values.
    """

    trained: Trained
    figures: dict[str, Any]


def run_config(config: Config, shrink_every: int, dtype: str = "float32") -> RunConfig:
    """The experiment's own configuration."""
    recipe = Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        # Low once the groups are chosen: two runs that differ by rounding then stay together.
        learning_rate_drops=(1 + config.target_epochs,),
        start_epoch=1,
        momentum=0.9,
        weight_decay=1e-4,
        target_macs=config.target_macs,
        target_epochs=config.target_epochs,
    )
    data = Cifar10Options(
        train_images=config.train_images, test_images=config.test_images, dtype=dtype
    )
    options = RunOptions(
        seed=config.seed,
        log_every=10,
        checkpoint_every=10**9,  # one checkpoint, at the end
        evaluate_every=0,
        shrink_every=shrink_every,
    )
    return RunConfig(depth=config.depth, recipe=recipe, data=data, run=options)


def in_float64(task: Task) -> Task:
    """The same training with parameters and statistics in float64, as far as JAX is set to it."""

    def variables(seed: int) -> Any:
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), task.variables(seed))

    return dataclasses.replace(task, variables=variables)


def with_sgd(task: Task, recipe: Recipe) -> Task:
    """The same training without group lasso and projection."""
    sgd = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay),
        optax.sgd(recipe.learning_rate, momentum=recipe.momentum),
    )
    return dataclasses.replace(task, optimizer=lambda zigs: sgd)


@contextmanager
def compiling() -> Iterator[list[float]]:
    """Collects the seconds of each compilation."""
    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILE_EVENT:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def run(config: Config, shrink_every: int, sgd: bool = False, dtype: str = "float32") -> Run:
    """Trains once, timed from discovery to the last step."""
    of_run = run_config(config, shrink_every, dtype)
    parallel = start(of_run.run)
    task = make_task(of_run, parallel)
    task = in_float64(task) if dtype == "float64" else task
    task = with_sgd(task, of_run.recipe) if sgd else task
    task = dataclasses.replace(task, evaluate=lambda model, variables: {})
    folder = Path(tempfile.mkdtemp(prefix="shrinking-"))
    jax.clear_caches()  # so that each run pays for what it compiles
    try:
        with open_run(folder, to_json(of_run)) as opened, compiling() as compilations:
            begun = time.perf_counter(), time.process_time()
            trained = train(task, of_run.run, parallel, opened)
            seconds, processor = time.perf_counter() - begun[0], time.process_time() - begun[1]
        step_ms = last_steps_ms(folder)
    finally:
        shutil.rmtree(folder)
    figures = {
        "seconds": seconds,
        "processor_seconds": processor,
        "compile_seconds": sum(compilations),
        "cuts": len(trained.network.cuts),
        "epochs_before_cuts": epochs_before_cuts(trained, task),
        "last_step_ms": step_ms,
        "parameters": oto_jax.count_parameters(trained.state.params),
    }
    return Run(trained, figures)


def epochs_before_cuts(trained: Trained, task: Task) -> list[int]:
    """After how many epochs each cut was made; its name ends in the step."""
    return [int(name.split("-")[-1]) // task.steps_per_epoch for name in trained.network.cuts]


def last_steps_ms(folder: Path) -> float:
    """Median milliseconds of a step over the last lines of a run's log."""
    lines = (folder / "timing.jsonl").read_text().splitlines()[-5:]
    return statistics.median(json.loads(line)["milliseconds_per_step"] for line in lines)


def outputs(trained: Trained, images: jax.Array) -> np.ndarray:
    """Logits of the trained network."""
    variables = jax.tree.map(np.asarray, variables_of(trained.state))
    return np.asarray(jax.jit(trained.network.model.apply)(variables, images))


def macs(trained: Trained, image: jax.Array) -> int:
    """Multiply-accumulates of the network that is left when zero groups are cut."""
    variables = jax.tree.map(np.asarray, variables_of(trained.state))
    slim = oto_jax.prune(trained.network.model, variables, trained.network.zigs)
    return oto_jax.count_macs(slim.model.apply, slim.variables, image)


def agreement(one: np.ndarray, other: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How alike two networks' outputs are, and how good."""
    return {
        "same_class": float(np.mean(one.argmax(-1) == other.argmax(-1))),
        "worst_relative_difference": float(np.abs(one - other).max() / np.abs(one).max()),
        "top1_without": 100 * float(np.mean(one.argmax(-1) == labels)),
        "top1_with": 100 * float(np.mean(other.argmax(-1) == labels)),
    }


def exact_agreement(config: Config, test: cifar10.LabelledImages) -> dict[str, float]:
    """How alike the networks of a training in float64 are, with and without cuts, and their times.

    The logits are given in float32, so differences below its rounding do not show.
    """
    exact = dataclasses.replace(
        config, epochs=config.exact_epochs, train_images=config.exact_images
    )
    with jax.enable_x64(True):
        without, shrunk = (run(exact, every, dtype="float64") for every in (0, exact.shrink_every))
        if not shrunk.figures["cuts"]:
            sys.exit("nothing was cut in float64: give it more --exact-epochs")
        images = normalise(jnp.asarray(test.images))
        logits, others = (outputs(found.trained, images) for found in (without, shrunk))
        return {
            **agreement(logits, others, test.labels),
            "seconds_without": without.figures["seconds"],
            "seconds_with": shrunk.figures["seconds"],
            "ratio": shrunk.figures["seconds"] / without.figures["seconds"],
        }


def measure(config: Config) -> dict[str, Any]:
    """All figures."""
    test = cifar10.load("test").first(config.test_images)
    images = normalise(jnp.asarray(test.images))
    runs = {
        "dense": run(config, 0, sgd=True),
        "hspg": run(config, 0),
        "hspg, shrinking": run(config, config.shrink_every),
    }
    without, shrunk = runs["hspg"].trained, runs["hspg, shrinking"].trained
    full = macs(runs["dense"].trained, images[:1])
    figures: dict[str, Any] = {"runs": {name: found.figures for name, found in runs.items()}}
    for name, found in (("hspg", without), ("hspg, shrinking", shrunk)):
        figures["runs"][name]["kept_macs"] = macs(found, images[:1]) / full
    for key, name in (("ratio", "hspg"), ("ratio_to_dense", "dense")):
        figures[key] = ratio(runs, name, "seconds")
        figures[f"processor_{key}"] = ratio(runs, name, "processor_seconds")
    figures["agreement"] = agreement(outputs(without, images), outputs(shrunk, images), test.labels)
    figures["agreement_in_float64"] = exact_agreement(config, test)
    return figures


def ratio(runs: Mapping[str, Run], of: str, what: str) -> float:
    """What shrinking takes, of what another run took."""
    return float(runs["hspg, shrinking"].figures[what] / runs[of].figures[what])


def report(figures: dict[str, Any]) -> None:
    """Prints the figures."""
    heads = f"{'seconds':>9}{'processor':>11}{'compiling':>11}{'cuts':>6}"
    print(f"\n{'':18}{heads}{'last step':>12}{'kept MACs':>11}")
    for name, row in figures["runs"].items():
        kept = f"{row['kept_macs']:11.1%}" if "kept_macs" in row else f"{1:11.1%}"
        print(
            f"{name:18}{row['seconds']:9.1f}{row['processor_seconds']:11.1f}"
            f"{row['compile_seconds']:11.1f}{row['cuts']:6}"
            f"{row['last_step_ms']:9.0f} ms{kept}"
        )
    for key, of in (("ratio", "without"), ("ratio_to_dense", "of dense training")):
        processor = figures[f"processor_{key}"]
        print(
            f"shrinking, of the time {of}: {figures[key]:.2f} of wall time,"
            f" {processor:.2f} of processor time"
        )
    epochs = figures["runs"]["hspg, shrinking"]["epochs_before_cuts"]
    print(f"epochs before each cut: {', '.join(map(str, epochs)) or 'nothing was cut'}")
    exact = figures["agreement_in_float64"]
    print(f"in float64: {exact['ratio']:.2f} of the time without")
    for key, where in (("agreement", "float32"), ("agreement_in_float64", "float64")):
        found = figures[key]
        print(
            f"{where}: the same class for {found['same_class']:.2%} of the test images, outputs"
            f" apart by {found['worst_relative_difference']:.1e} of the largest; top-1"
            f" {found['top1_without']:.2f} and {found['top1_with']:.2f} %"
        )


def bounds(figures: Mapping[str, Any]) -> list[Bound]:
    """What is judged."""
    other_class = 1 - figures["agreement_in_float64"]["same_class"]
    return [
        Bound("wall time with cuts, of that without", figures["ratio"], BOUND),
        Bound("test images that cuts put into another class, in float64", other_class, 0.0),
    ]


def main(config: Config) -> None:
    """Measures, prints, writes, judges."""
    try:
        cifar10.load("test")
    except MissingDataError as error:
        print(f"skipped: {error}")
        return
    figures = measure(config)
    report(figures)
    settings = {key: v for key, v in dataclasses.asdict(config).items() if key != "results"}
    judged = bounds(figures)
    content = {**figures, **record(judged), "config": settings}
    write_results(config.results, content, seed=config.seed)
    show(judged)
    leave_if_over(judged)


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,)))
