"""Tables of accuracy: each shows several result files, and says which have not been run."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparison import align, format_table

Results = Mapping[str, Any] | None
NOT_RUN = "not run"

# What others report of their own work, with the source; nothing of it was run here.
PUBLISHED = "docs/published.json"


def _named(key: str) -> tuple[str, ...]:
    """Names of our results that stand beside rows of others."""
    reports = json.loads((Path(__file__).resolve().parents[1] / PUBLISHED).read_text())
    return tuple(row[key] for report in reports for row in report["rows"] if key in row)


PAPER = _named("ours")
PAPER_FILES = (PUBLISHED, *(f"results/{name}.json" for name in PAPER))
BESIDE = _named("beside")
BESIDE_FILES = (PUBLISHED, *(f"results/{name}.json" for name in BESIDE))

DIGITS_FILES = ("results/digits.json", "results/digits_dense.json")

# Each with what its result file's name ends in, and whether a row stands here before it is run.
WAYS = (
    ("HSPG, to a target", "_tuned", True),
    ("magnitude, fine-tuned", "_magnitude_tuned", True),
    ("Torch-Pruning, sparse training", "_torch_pruning", True),
    ("Torch-Pruning, stronger regulariser", "_torch_pruning_tuned", False),
    ("HSPG, earlier settings", "", False),
    ("HSPG, scores averaged longer", "_averaged", False),
    ("HSPG, taught by ResNet-56", "_teacher56", False),
    ("magnitude, earlier settings", "_magnitude", False),
)
RESNETS = tuple(
    (depth, share, way, f"resnet{depth}_{share}{ending}", always)
    for depth, share in itertools.product((20, 56), ("half", "third"))
    for way, ending, always in WAYS
)
# A run's further seeds have files of their own: resnet20_half, resnet20_half_seed1, ...
SEEDS = ("", "_seed1", "_seed2", "_seed3")
RESNET_FILES = tuple(f"results/{row[3]}{seed}.json" for row in RESNETS for seed in SEEDS)
# Places, and how often a run looks at itself.
NOT_SETTINGS = frozenset(
    "seed name workdir results checkpoint data_dir"
    " log_every checkpoint_every evaluate_every".split()
)

SQUAD = ("minilm_squad_dense", "minilm_squad_30", "minilm_squad_60")
SQUAD_FILES = tuple(f"results/{name}.json" for name in SQUAD)


def digits(pruned: Results, dense: Results) -> str:
    """The demo before and after the cut, and the same network trained without pruning."""
    if pruned is None:
        return "Not run."
    return (
        f"{format_table(pruned)} Test accuracy, trained without pruning: {_trained_dense(dense)}."
    )


def _trained_dense(results: Results) -> str:
    if results is None:
        return NOT_RUN
    full, slim = results["full"], results["slim"]
    if slim["parameters"] != full["parameters"]:
        raise ValueError("results/digits_dense.json is of a network that was pruned")
    return f"{full['test_accuracy']:.2%}"


def published(reports: Any) -> str:
    """What others report, all of it."""
    rows: list[tuple[str, ...]] = [("", "network", "score", "kept", "training")]
    for report in reports:
        who = f"[{report['who']}]({report['source']})"
        for row in report["rows"]:
            training = row.get("training", report["training"])
            rows.append((who, row["network"], row["score"], row["kept"], training))
    return align(rows)


def paper(reports: Any, *found: Results) -> str:
    """The paper's rows: what its repository reports, and ours."""
    ours = dict(zip(PAPER, found, strict=True))
    rows: list[tuple[str, ...]] = [("network and data", "the paper", "oto_jax")]
    for row in (row for report in reports for row in report["rows"] if "ours" in row):
        results = ours[row["ours"]]
        reached = NOT_RUN if results is None else _paper_row(results, row["score"])
        rows.append((row["network"], f"{row['score']} at {row['kept']}", reached))
    return align(rows)


def beside(reports: Any, *found: Results) -> str:
    """A few rows of others and ours, with what each was trained for."""
    ours = dict(zip(BESIDE, found, strict=True))
    dense = {
        row["network"]: (row["score"], row.get("training", report["training"]).split(",")[0])
        for report in reports
        for row in report["rows"]
        if row["kept"] == "all"
    }
    rows: list[tuple[str, ...]] = [("network", "published", "training", "oto_jax", "training")]
    for report in reports:
        for row in (row for row in report["rows"] if "beside" in row):
            results = ours[row["beside"]]
            published = f"[{report['who']}]({report['source']}): {row['score']}, {row['kept']}"
            training = row.get("training", report["training"])
            cells = (row["network"], published, training)
            if results is None:
                rows.append((*cells, NOT_RUN, ""))
                continue
            epochs = f"{results['config']['recipe']['epochs']} epochs"
            reached, how = _paper_row(results, row["score"]), f"{epochs} from scratch"
            if results["config"].get("from_scratch") is False:  # of networks that are published
                score, before = dense[row["network"]]
                reached, how = f"{score.split()[0]} to {reached}", f"{before} (published), {epochs}"
            rows.append((*cells, reached, how))
    return align(rows)


def _paper_row(results: Mapping[str, Any], reported: str) -> str:
    """Ours in the quantities that the paper's row has."""
    slim = results["slim_test"]
    if "parameters_without_embeddings" in results:
        kept = _percent(results["parameters_without_embeddings"]["kept"])
        return f"EM {slim['exact_match']:.1f}, F1 {slim['f1']:.1f} at {kept} of the parameters"
    top5 = f", top-5 {slim['top5']:.1f} %" if "top-5" in reported else ""
    macs, parameters = (_percent(results[name]["kept"]) for name in ("macs", "parameters"))
    return f"{slim['top1']:.2f} %{top5} at {macs} of the MACs, {parameters} of the parameters"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def cifar_resnets(*found: Results) -> str:
    """Published CIFAR ResNets, pruned in several ways."""
    heads = ("network", "way", "MACs kept", "parameters kept", "top-1, slim", "epochs, uncropped")
    rows: list[tuple[str, ...]] = [(*heads, "weight decay", "images per BatchNorm")]
    for number, (depth, share, way, name, always) in enumerate(RESNETS):
        first = number * len(SEEDS)
        runs = [results for results in found[first : first + len(SEEDS)] if results]
        if not (runs or always):
            continue
        cells = _over_seeds(name, runs) if runs else (f"{NOT_RUN} ({share})", *("",) * 5)
        rows.append((f"ResNet-{depth}", way, *cells))
    return align(rows)


def _resnet(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a row shows of one run, ours or of benchmarks/torch_pruning_cifar10.py."""
    config = results["config"]
    if "pruned" in results:
        slim, data, recipe = results["pruned"], config, config
        found = {"macs": slim["kept_macs"], "parameters": slim["kept_parameters"]}
    else:
        slim, data, recipe = results["slim_test"], config["data"], config["recipe"]
        found = {name: results[name]["kept"] for name in ("macs", "parameters")}
    if data["train_images"] is not None:
        raise ValueError(f"{results['command']} trained on a part of the images: say so in a row")
    return {
        **found,
        "top1": slim["top1"],
        "epochs, uncropped": [f"{recipe['epochs']}, {recipe.get('uncropped_epochs', 0)}"],
        "weight decay": [f"{recipe['weight_decay']:.0e}".replace("e-0", "e-")],
        "images per BatchNorm": _normalised_together(results),
    }


def _normalised_together(results: Mapping[str, Any]) -> list[str]:
    """Over how many images a BatchNorm took its statistics: those of a device at a time.

    A run that went on with other devices has several numbers. Torch-Pruning's has one device.
    """
    config = results["config"]
    if "pruned" in results:
        return [str(config["batch_size"])]
    starts = results.get("starts") or [results.get("hardware", {})]
    devices = [int(start["devices"].split()[0]) for start in starts if "devices" in start]
    if config["data"].get("sync_batch_norm"):
        devices = [1 for _ in devices]
    parts = config.get("run", {}).get("accumulate", 1)
    return [str(config["recipe"]["batch_size"] // (count * parts)) for count in devices]


def _over_seeds(name: str, results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Means, and the range of the accuracy.

    Raises:
      ValueError: if the runs differ in more than their seeds.
    """
    _check_alike(name, [_settings(found["config"]) for found in results])
    runs = [_resnet(found) for found in results]
    shares = (statistics.mean(run[what] for run in runs) for what in ("macs", "parameters"))
    scores = [run["top1"] for run in runs]
    top1 = f"{statistics.mean(scores):.2f} %"
    if len(runs) > 1:
        top1 += f" ({min(scores):.2f} - {max(scores):.2f}, {len(runs)} seeds)"
    last = ("epochs, uncropped", "weight decay", "images per BatchNorm")
    others = (_distinct(word for run in runs for word in run[what]) for what in last)
    return *(f"{share:.1%}" for share in shares), top1, *others


def _distinct(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _check_alike(name: str, settings: Sequence[Mapping[str, Any]]) -> None:
    """Refuses to average runs of other settings; an option that one of two lacks is younger."""
    first = settings[0]
    for other in settings[1:]:
        apart = sorted(key for key in first.keys() & other.keys() if first[key] != other[key])
        if apart:
            told = ", ".join(f"{key} ({first[key]} and {other[key]})" for key in apart)
            raise ValueError(f"seeds of results/{name}.json are averaged, but differ in {told}")


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What decides a run's figures beside its seed, by dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _settings(value, f"{prefix}{key}.")
        elif key not in NOT_SETTINGS:
            found[prefix + key] = value
    return found


def screening(results: Mapping[str, Any]) -> str:
    """Effects of the recipe's settings, and the runs beside the design."""
    error = results["standard_error"]
    rows: list[tuple[str, ...]] = [("change", "effect on top-1, points")]
    rows += [(name, f"{effect:+.2f}") for name, effect in results["effects"].items()]
    others: list[tuple[str, ...]] = [("beside the design", "top-1", "seeds")]
    for name, scores in results["others"].items():
        others.append((name, f"{statistics.mean(scores):.2f} %", str(len(scores))))
    return (
        f"{align(rows)}\n\nStandard error of each effect: {error:.2f}; mean of the sixteen runs:"
        f" {results['mean_top1']:.2f} %.\n\n{align(others)}"
    )


def squad(*found: Results) -> str:
    """MiniLM on SQuAD: dense beside two sparsities."""
    heads = ("groups zero", "parameters", "MACs", "exact match", "F1", "latency, full to slim")
    rows: list[tuple[str, ...]] = [(*heads, "answers that differ, slim and full")]
    for name, results in zip(SQUAD, found, strict=True):
        rows.append((name, NOT_RUN, *("",) * 5) if results is None else _squad(results))
    done = next((results for results in found if results is not None), None)
    return align(rows) + ("" if done is None else f"\n\n{_squad_setting(done)}")


def _squad(results: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = results["parameters_without_embeddings"], results["macs"]
    score, latency = results["slim_test"], results["latency_ms"]
    return (
        f"{1 - results['groups']['kept']:.0%}",
        *(f"{size['kept']:.1%}" for size in sizes),
        f"{score['exact_match']:.2f}",
        f"{score['f1']:.2f}",
        f"{latency['full']:.0f} to {latency['slim']:.0f} ms",
        f"{results['differing_answers']} of {score['questions']}",
    )


def _squad_setting(results: Mapping[str, Any]) -> str:
    data, recipe = results["config"]["data"], results["config"]["recipe"]
    passes = recipe["epochs"] * recipe["passes_per_epoch"]
    return (
        f"{data['train_questions'] or 'All'} training questions, {passes} passes,"
        f" {results['test']['questions']} development questions, windows of"
        f" {data['windows']['length']} tokens; parameters without embeddings."
    )
