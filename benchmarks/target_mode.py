"""Which way to a target keeps the most accuracy: a study on real handwritten digits.

``python benchmarks/target_mode.py`` trains the demo's residual network from scratch, always with
the same number of steps, down to a small share of its multiply-accumulates, in many ways: target
mode with other saliencies, rankings, fades, windows and weights of the group lasso, and the ideas
that it has to beat, told in its words:

* magnitude pruning in one shot halfway, then fine-tuning;
* gradual magnitude pruning (Zhu and Gupta, 2017): no lasso, no fading;
* the group-norm regulariser of Torch-Pruning (Fang et al., *DepGraph*, CVPR 2023, section 3.3),
  a weight decay of each group by :math:`2^{4 (I_max - I_g) / (I_max - I_min)}` with the group's
  norm :math:`I_g`, then one shot and fine-tuning;
* DHSPG (Chen et al., *OTOv2*, ICLR 2023): the redundant groups are chosen once, by magnitude and
  cosine, then shrunk together over the whole window;
* HESSO (Chen et al., 2024): chosen in ten periods by a mixture of saliencies, each period's groups
  shrunk within the next.

Each runs with several seeds, which decide the split, the first weights and the order. Accuracy and
cross-entropy are those of the slim networks on 800 images that were not trained on. It writes
``results/target_mode.json``; finished runs are kept in ``runs/target_mode.jsonl``, so the same
command goes on after a kill. Expected: a quarter of an hour on two cores.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from experiments.handwriting.images import Digits, batches, load_images
from experiments.handwriting.network import ResidualNet
from experiments.handwriting.train import State, Step, make_step
from experiments.results import ROOT, commit, write_results
from experiments.training.recipe import mac_costs
from oto_jax.optim.norms import grouped_leaves, map_leaves, spread, squared_norms
from oto_jax.optim.saliency import cosine, magnitude, squared_taylor, taylor

MIXTURE = ((magnitude, 1.0), (cosine, 1.0), (taylor, 1.0), (squared_taylor, 1.0))


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      kept: shares of the multiply-accumulates; at all but the first only the main ways run.
      seeds: how many.
      epochs: of every run.
      batch_size: images of a step.
      learning_rate: at the first step; it falls to 0 along a cosine.
      momentum: of SGD, with HSPG and without.
      test_images: images held out, on which all is measured.
      only: names of ways to run, instead of all; then no result file is written.
      rows: where finished runs are kept.
      results: the result file.
    """

    kept: tuple[float, ...] = (0.03, 0.1)
    seeds: int = 3
    epochs: int = 24
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    test_images: int = 800
    only: tuple[str, ...] = ()
    rows: Path = ROOT / "runs" / "target_mode.jsonl"
    results: Path = ROOT / "results" / "target_mode.json"


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of reaching the target.

    Attributes:
      start: where in the run the window begins, as a share of it.
      window: how long it is, likewise; 0 is a single step.
      saliency: which groups to keep.
      per_cost: whether groups are ranked by saliency per cost saved.
      fade: the share of the window over which a group shrinks.
      rounds: at how many steps groups are chosen.
      lmbda: weight of the group lasso.
      group_decay: weight of the group-norm regulariser until the window ends.
      main: whether it runs at every share.
    """

    start: float = 0.1
    window: float = 0.5
    saliency: Any = taylor
    per_cost: bool = False
    fade: float = 0.2
    rounds: int = 100
    lmbda: float = 1e-3
    group_decay: float = 0.0
    main: bool = False


ONE_SHOT = Way(start=0.5, window=0.0, saliency=magnitude, fade=0.0, lmbda=0.0)
DEFAULT = Way()
WAYS = {
    "default": dataclasses.replace(DEFAULT, main=True),
    "saliency: magnitude": dataclasses.replace(DEFAULT, saliency=magnitude),
    "saliency: cosine": dataclasses.replace(DEFAULT, saliency=cosine),
    "saliency: squared Taylor": dataclasses.replace(DEFAULT, saliency=squared_taylor),
    "per cost: Taylor": dataclasses.replace(DEFAULT, per_cost=True),
    "per cost: squared Taylor": dataclasses.replace(
        DEFAULT, saliency=squared_taylor, per_cost=True, main=True
    ),
    "saliency: mixture": dataclasses.replace(DEFAULT, saliency=MIXTURE),
    "fade: none": dataclasses.replace(DEFAULT, fade=0.0),
    "fade: half": dataclasses.replace(DEFAULT, fade=0.5),
    "window: short and early": dataclasses.replace(DEFAULT, window=0.2),
    "window: long": dataclasses.replace(DEFAULT, window=0.8),
    "window: late": dataclasses.replace(DEFAULT, start=0.4),
    "lasso: none": dataclasses.replace(DEFAULT, lmbda=0.0),
    "lasso: strong": dataclasses.replace(DEFAULT, lmbda=7e-3),
    "one shot, fine-tuning": dataclasses.replace(ONE_SHOT, main=True),
    "gradual magnitude": Way(saliency=magnitude, fade=0.0, lmbda=0.0, main=True),
    "Torch-Pruning, 5e-4": dataclasses.replace(ONE_SHOT, group_decay=5e-4, main=True),
    "Torch-Pruning, 5e-3": dataclasses.replace(ONE_SHOT, group_decay=5e-3),
    "DHSPG": Way(saliency=((magnitude, 1.0), (cosine, 1.0)), fade=1.0, main=True),
    "HESSO": Way(saliency=MIXTURE, fade=0.1, rounds=10, lmbda=0.0, main=True),
}


def decay_by_group_norm(zigs: oto_jax.ZIGs, weight: float, steps: int) -> Any:
    """Torch-Pruning's regulariser on the gradients of the first ``steps`` steps."""

    def update(updates: Any, step: jax.Array, params: Any = None) -> Any:
        norms = {
            name: jnp.sqrt(n)
            for name, n in squared_norms(zigs, grouped_leaves(zigs, params)).items()
        }
        decays = {
            name: jnp.where(step < steps, weight, 0.0) * _factors(n) for name, n in norms.items()
        }

        def add(path: Any, gradient: jax.Array, param: jax.Array) -> jax.Array:
            if path not in zigs.members_by_path:
                return gradient
            return gradient + spread(zigs, decays, path, param.shape, 0.0) * param

        return map_leaves(zigs, add, updates, params), step + 1

    return optax.GradientTransformation(lambda _: jnp.zeros([], jnp.int32), update)


def _factors(norms: jax.Array) -> jax.Array:
    low, high = jnp.min(norms), jnp.max(norms)
    return 2.0 ** (4 * (high - norms) / jnp.maximum(high - low, 1e-12))


def optimizer(
    way: Way | None, config: Config, zigs: oto_jax.ZIGs, kept: float, costs: Any, steps: int
) -> optax.GradientTransformation:
    """The whole chain of one way; without a way, plain momentum SGD."""
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps)
    clip = optax.clip_by_global_norm(1.0)
    if way is None:
        return optax.chain(clip, optax.sgd(schedule, config.momentum))
    start, window = round(way.start * steps), max(1, round(way.window * steps))
    hspg = oto_jax.hspg(
        schedule,
        zigs,
        lmbda=way.lmbda,
        momentum=config.momentum,
        start_step=start,
        target_group_sparsity=oto_jax.Target(
            kept=kept,
            costs=costs,
            saliency=way.saliency,
            per_cost=way.per_cost,
            fade=way.fade,
            rounds=way.rounds,
        ),
        target_steps=window,
    )
    if not way.group_decay:
        return optax.chain(clip, hspg)
    return optax.chain(clip, decay_by_group_norm(zigs, way.group_decay, start), hspg)


def train(step: Step, tx: Any, variables: Any, digits: Digits, config: Config, seed: int) -> Any:
    """The variables after the last epoch."""
    params = variables["params"]
    state = State(jnp.array(0), params, variables["batch_stats"], tx.init(params))
    for epoch in range(config.epochs):
        for images, labels in batches(digits, config.batch_size, seed, epoch):
            state, _ = step(state, images, labels)
    return {"params": state.params, "batch_stats": state.statistics}


def measured(model: Any, variables: Any, digits: Digits) -> dict[str, float]:
    """Accuracy and mean cross-entropy on the images held out."""
    logits = jax.jit(model.apply)(variables, digits.test_images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, digits.test_labels)
    right = np.argmax(np.asarray(logits), -1) == digits.test_labels
    return {"accuracy": float(np.mean(right)), "cross_entropy": float(losses.mean())}


def run_way(
    name: str, way: Way | None, config: Config, kept: float, bar: tqdm.tqdm[Any]
) -> Iterator[dict[str, Any]]:
    """All seeds of one way, with one compiled step."""
    model = ResidualNet((32, 64), 2)
    images = load_images(config.test_images, 0).train_images
    variables = [
        jax.jit(model.init)(jax.random.key(seed), images[:1]) for seed in range(config.seeds)
    ]
    zigs = oto_jax.find_zigs(model, variables[0], images[:1])
    steps = config.epochs * (len(images) // config.batch_size)
    tx = optimizer(way, config, zigs, kept, mac_costs(model, images[:1]), steps)
    step = make_step(model, tx, seed=0)
    for seed, initial in enumerate(variables):
        digits = load_images(config.test_images, seed)
        trained = train(step, tx, initial, digits, config, seed)
        row: dict[str, Any] = {"way": name, "kept": kept, "seed": seed}
        if way is None:
            row |= measured(model, trained, digits)
        else:
            slim = oto_jax.prune(model, trained, zigs)
            found = oto_jax.certify((model, trained), slim, digits.test_images)
            row |= measured(slim.model, slim.variables, digits)
            row |= {"kept_macs": found.slim.macs / found.full.macs, "worst": found.relative}
        bar.update()
        bar.set_postfix(way=name, accuracy=f"{row['accuracy']:.2%}", refresh=False)
        yield row


def plan(config: Config) -> list[tuple[str, Way | None, float]]:
    """What runs, in order."""
    runs: list[tuple[str, Way | None, float]] = [("dense", None, 1.0)]
    for number, kept in enumerate(config.kept):
        runs += [(name, way, kept) for name, way in WAYS.items() if number == 0 or way.main]
    return [run for run in runs if not config.only or run[0] in config.only]


def print_table(rows: Iterable[dict[str, Any]]) -> None:
    """Mean and range over the seeds, by share and way."""
    cells: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["kept"], row["way"]), []).append(row)
    print(f"\n{'kept':>5}  {'way':28}{'accuracy':>9}{'range':>17}{'cross-entropy':>15}")
    for (kept, way), found in cells.items():
        accuracies = [row["accuracy"] for row in found]
        loss = statistics.mean(row["cross_entropy"] for row in found)
        print(
            f"{kept:5.0%}  {way:28}{statistics.mean(accuracies):9.2%}"
            f"{min(accuracies):9.2%} - {max(accuracies):.2%}{loss:14.4f}"
        )


def main(config: Config) -> None:
    """Runs, prints, writes."""
    runs = plan(config)
    settings = {k: v for k, v in dataclasses.asdict(config).items() if not isinstance(v, Path)}
    del settings["only"]
    known = finished(config.rows, settings)
    with tqdm.tqdm(total=len(runs) * config.seeds, unit="run") as bar:
        for name, way, kept in runs:
            if (name, kept) in known:
                bar.update(config.seeds)
                continue
            known[name, kept] = list(run_way(name, way, config, kept, bar))
            keep(config.rows, settings, known[name, kept])
    rows = [row for name, _, kept in runs for row in known[name, kept]]
    print_table(rows)
    if not config.only:
        write_results(config.results, {"rows": rows, "config": settings}, seed=0)


def finished(path: Path, settings: dict[str, Any]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The runs that an earlier call with the same settings and code has left."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # A kill can cut the last line; its way is run again.
            continue
        if entry["settings"] == json.loads(json.dumps(settings)) and entry["commit"] == commit():
            first = entry["rows"][0]
            found[first["way"], first["kept"]] = entry["rows"]
    return found


def keep(path: Path, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Adds the runs of one way, as one line, below whatever an earlier kill has cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.exists() and not path.read_bytes().endswith(b"\n")
    before = "\n" if cut_off else ""
    entry = json.dumps({"settings": settings, "commit": commit(), "rows": rows})
    with path.open("a") as lines:
        lines.write(f"{before}{entry}\n")


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,)))
