"""What HSPG costs beside AdamW and SGD, as ratios within one run.

``python benchmarks/optimizer.py`` takes ResNet-50's parameters (ImageNet form) and measures, jitted
and with donated buffers, in turn, the order drawn anew for each round:

* update and apply: `oto_jax.hspg` with momentum as a multiple of `optax.adamw` (at most 1.0), and
  beside them SGD with momentum, HSPG without, its target mode, and its projection around AdamW;
* a full training step with HSPG as a multiple of the same step with `optax.sgd`, both without and
  with momentum (at most 1.05; 1.03 on an accelerator), and the peak of its temporary memory
  likewise (at most 1.10);
* what XLA made of the update: gathers, scatters and concatenations over parameters (none).

The floor is counted in passes over the parameters' memory: SGD with momentum has to read x, g, m
and write x and m, 5; so has HSPG, if what it reads again (x for the norms, x and m for the inner
products and the step) is in the cache still, else 8; AdamW 7. Beside it stand the passes that the
compiled update makes, by XLA's own count of bytes, which knows of no cache. It writes
``results/optimizer.json``, and fails where a figure is over its bound. Expected: four minutes on
two cores.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
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
from benchmarks.race import compared, race
from experiments.results import ROOT, write_results
from oto_jax.models.resnet import ResNet50

UPDATE, STEP, STEP_ON_ACCELERATOR, MEMORY = 1.0, 1.05, 1.03, 1.10
MEASURED = ("median_ms", "temporary_mb")
FLOOR = {"sgd": 3, "hspg": 3, "sgd, momentum": 5, "hspg, momentum": 5, "adamw": 7}
Tree = Any


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      rounds: of the updates.
      per_round: how often each is called before it is the next one's turn.
      step_rounds: of the training steps.
      batch: images of a training step.
      image: their height and width.
      seed: of the parameters, the gradients, the images and the order in each round.
      results: the result file.
    """

    rounds: int = 15
    per_round: int = 3
    step_rounds: int = 7
    batch: int = 32
    image: int = 112
    seed: int = 0
    results: Path = ROOT / "results" / "optimizer.json"


def optimizers(zigs: oto_jax.ZIGs) -> dict[str, optax.GradientTransformation]:
    """What is compared, by name."""
    window: dict[str, Any] = {"target_group_sparsity": 0.5, "target_steps": 10_000}
    return {
        "adamw": optax.adamw(1e-3),
        "sgd": optax.sgd(1e-3),
        "sgd, momentum": optax.sgd(1e-3, momentum=0.9),
        "hspg": oto_jax.hspg(1e-3, zigs),
        "hspg, momentum": oto_jax.hspg(1e-3, zigs, momentum=0.9),
        "hspg, momentum, target": oto_jax.hspg(1e-3, zigs, momentum=0.9, **window),
        "lasso, adamw, projection": optax.chain(
            oto_jax.add_group_lasso(1e-3, zigs),
            optax.adamw(1e-3),
            oto_jax.project_half_space(zigs),
        ),
    }


@dataclasses.dataclass
class Contestant:
    """A compiled step and the state that it carries on."""

    compiled: Any
    carry: tuple[Any, ...]
    rest: tuple[Any, ...]

    def __call__(self) -> Any:
        """One step."""
        self.carry = self.compiled(*self.carry, *self.rest)
        return self.carry


def contestant(step: Callable[..., Any], carry: tuple[Any, ...], *rest: Any) -> Contestant:
    """Compiles a step that donates what it carries on."""
    carry = jax.tree.map(jnp.copy, carry)
    donated = tuple(range(len(carry)))
    compiled = jax.jit(step, donate_argnums=donated).lower(*carry, *rest).compile()
    return Contestant(compiled, carry, rest)


def update_and_apply(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """The optimizer's share of a training step."""

    def step(state: Any, params: Tree, gradients: Tree) -> Any:
        updates, state = tx.update(gradients, state, params)
        return state, optax.apply_updates(params, updates)

    return step


def training_step(model: Any, tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Forward, backward and update of ResNet-50 on one batch."""

    def step(state: Any, variables: Tree, images: jax.Array, labels: jax.Array) -> Any:
        def loss_of(params: Tree) -> Any:
            logits, updated = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updated

        gradients, updated = jax.grad(loss_of, has_aux=True)(variables["params"])
        updates, state = tx.update(gradients, state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return state, {**updated, "params": params}

    return step


def run(
    contestants: Mapping[str, Contestant], rounds: int, per_round: int, against: str, seed: int
) -> dict[str, Any]:
    """Milliseconds, ratios to one of them with their spread, and temporary memory."""
    times = race(contestants, rounds=rounds, per_round=per_round, seed=seed)
    rows = {name: compared(times[name], times[against]) for name in contestants}
    for name, one in contestants.items():
        rows[name]["temporary_mb"] = one.compiled.memory_analysis().temp_size_in_bytes / 1e6
    return rows


def moves_over_parameters(compiled: Any, smallest: int) -> dict[str, int]:
    """Gathers, scatters and concatenations in the optimized HLO with results of that many entries.

    Vectors over groups may be put together; anything as large as a kernel may not.
    """
    counts = dict.fromkeys(("gather", "scatter", "concatenate"), 0)
    for shape, kind in re.findall(r"= \w+\[([\d,]*)\]\S* (\S+?)\(", compiled.as_text()):
        size = int(np.prod([int(n) for n in shape.split(",") if n] or [1]))
        if kind in counts and size >= smallest:
            counts[kind] += 1
    return counts


def memory_bandwidth(arrays: int = 64, entries: int = 2**20, repeats: int = 25) -> float:
    """Bytes a second that scaling arrays in place moves: each is read and written once."""
    scale = jax.jit(lambda xs: [1.0001 * x for x in xs], donate_argnums=0)
    xs = [jnp.ones(entries, jnp.float32) for _ in range(arrays)]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        xs = jax.block_until_ready(scale(xs))
        seconds.append(time.perf_counter() - start)
    return 2 * 4 * arrays * entries / statistics.median(seconds)


def measure_updates(config: Config, params: Tree, zigs: oto_jax.ZIGs) -> dict[str, Any]:
    """The table of updates, and how far each is from the bytes that it has to move."""
    rng = np.random.default_rng(config.seed)
    gradients = jax.tree.map(
        lambda x: jnp.asarray(1e-3 * rng.normal(size=x.shape), x.dtype), params
    )
    contestants = {
        name: contestant(update_and_apply(tx), (tx.init(params), params), gradients)
        for name, tx in optimizers(zigs).items()
    }
    rows = run(contestants, config.rounds, config.per_round, "adamw", config.seed)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    bandwidth = memory_bandwidth()
    for name, one in contestants.items():
        rows[name]["passes"] = one.compiled.cost_analysis()["bytes accessed"] / size
    for name, passes in FLOOR.items():
        rows[name]["floor_passes"] = passes
        rows[name]["times_floor"] = rows[name]["median_ms"] / (1e3 * passes * size / bandwidth)
    moves = moves_over_parameters(contestants["hspg, momentum"].compiled, smallest=4096)
    return {"updates": rows, "bandwidth_gb_s": bandwidth / 1e9, "moves_over_parameters": moves}


def measure_steps(config: Config, variables: Tree, zigs: oto_jax.ZIGs) -> dict[str, Any]:
    """Full training steps with SGD and with HSPG, both with and without momentum."""
    rng = np.random.default_rng(config.seed)
    shape = (config.batch, config.image, config.image, 3)
    images = jnp.asarray(rng.normal(size=shape), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 1000, config.batch))
    chosen = ("sgd", "hspg", "sgd, momentum", "hspg, momentum")
    contestants = {}
    for name, tx in optimizers(zigs).items():
        if name in chosen:
            step = training_step(ResNet50(), tx)
            carry = (tx.init(variables["params"]), variables)
            contestants[name] = contestant(step, carry, images, labels)
    return {"steps": run(contestants, config.step_rounds, 1, "sgd", config.seed)}


def bounds(figures: Mapping[str, Any]) -> list[Bound]:
    """What is judged."""
    updates, steps = figures["updates"], figures["steps"]
    step_bound = STEP if jax.default_backend() == "cpu" else STEP_ON_ACCELERATOR

    def of_steps(ours: str, theirs: str) -> list[Bound]:
        time, memory = (steps[ours][key] / steps[theirs][key] for key in MEASURED)
        return [
            Bound(f"step of {ours}; of {theirs}", time, step_bound),
            Bound(f"temporary memory of {ours}'s step; of {theirs}'s", memory, MEMORY),
        ]

    moves = sum(figures["moves_over_parameters"].values())
    return [
        Bound("update of hspg, momentum; of adamw", updates["hspg, momentum"]["ratio"], UPDATE),
        *of_steps("hspg", "sgd"),
        *of_steps("hspg, momentum", "sgd, momentum"),
        Bound("gathers, scatters, concatenations of the update", moves, 0),
    ]


def print_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Rows as text."""
    heads = f"{'median ms':>10}{'ratio':>8}{'quartiles':>16}{'temp. MB':>10}"
    if any("passes" in row for row in rows.values()):
        heads += f"{'passes':>8}{'x floor':>9}"
    print(f"\n{title:28}{heads}")
    for name, row in rows.items():
        low, high = row["ratio_quartiles"]
        print(
            f"{name:28}{row['median_ms']:10.1f}{row['ratio']:8.2f}"
            f"{low:9.2f} - {high:.2f}{row['temporary_mb']:10.1f}"
            + (f"{row['passes']:8.1f}" if "passes" in row else "")
            + (f"{row['times_floor']:9.2f}" if "times_floor" in row else "")
        )


def main(config: Config) -> None:
    """Measures, prints, writes, judges."""
    image = jnp.zeros((1, config.image, config.image, 3))
    variables = jax.jit(ResNet50().init)(jax.random.key(config.seed), image)
    zigs = oto_jax.find_zigs(ResNet50(), variables, image)
    figures = {
        **measure_updates(config, variables["params"], zigs),
        **measure_steps(config, variables, zigs),
    }
    print_table("update and apply", figures["updates"])
    print_table("training step", figures["steps"])
    judged = bounds(figures)
    settings = {key: v for key, v in dataclasses.asdict(config).items() if key != "results"}
    content = {**figures, **record(judged), "config": settings}
    write_results(config.results, content, seed=config.seed)
    print()
    show(judged)
    leave_if_over(judged)


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,)))
