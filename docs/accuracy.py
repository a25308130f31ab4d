"""Tables of accuracy: each shows several result files, and says which have not been run."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparison import align

Results = Mapping[str, Any] | None
NOT_RUN = "not run"

# What others report of their own work, with the source; nothing of it was run here.
PUBLISHED = "docs/published.json"
PAPER = tuple(
    row["ours"]
    for who in json.loads((Path(__file__).resolve().parents[1] / PUBLISHED).read_text())
    for row in who["rows"]
    if "ours" in row
)
PAPER_FILES = (PUBLISHED, *(f"results/{name}.json" for name in PAPER))

WAYS = (
    ("HSPG, to a target", ""),
    ("magnitude, fine-tuned", "_magnitude"),
    ("Torch-Pruning, sparse training", "_torch_pruning"),
)
RESNETS = tuple(
    (depth, share, way, f"resnet{depth}_{share}{ending}")
    for depth, share, (way, ending) in itertools.product((20, 56), ("half", "third"), WAYS)
)
# A run's further seeds have files of their own: resnet20_half, resnet20_half_seed1, ...
SEEDS = ("", "_seed1", "_seed2")
RESNET_FILES = tuple(f"results/{name}{seed}.json" for *_, name in RESNETS for seed in SEEDS)

SQUAD = ("minilm_squad_dense", "minilm_squad_30", "minilm_squad_60")
SQUAD_FILES = tuple(f"results/{name}.json" for name in SQUAD)


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
        reached = NOT_RUN if results is None else _paper_row(results)
        rows.append((row["network"], f"{row['score']} at {row['kept']}", reached))
    return align(rows)


def _paper_row(results: Mapping[str, Any]) -> str:
    if "parameters_without_embeddings" in results:
        kept = results["parameters_without_embeddings"]["kept"]
        return f"F1 {results['slim_test']['f1']:.1f} at {kept:.1%} of the parameters"
    return f"{results['slim_test']['top1']:.1f} % at {results['macs']['kept']:.1%} of the MACs"


def cifar_resnets(*found: Results) -> str:
    """Published CIFAR ResNets, pruned by each way with the same training."""
    heads = ("network", "way", "MACs kept", "parameters kept", "top-1, slim", "epochs", "images")
    rows: list[tuple[str, ...]] = [heads]
    for number, (depth, share, way, _) in enumerate(RESNETS):
        first = number * len(SEEDS)
        runs = [_resnet(results) for results in found[first : first + len(SEEDS)] if results]
        cells = _over_seeds(runs) if runs else (f"{NOT_RUN} ({share})", "", "", "", "")
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
    images = data["train_images"]
    seen = "all" if images is None else f"{images:,}"
    return {**found, "top1": slim["top1"], "epochs": recipe["epochs"], "images": seen}


def _over_seeds(runs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Means, and the range of the accuracy; the training is the same for all."""
    shares = (statistics.mean(run[name] for run in runs) for name in ("macs", "parameters"))
    scores = [run["top1"] for run in runs]
    top1 = f"{statistics.mean(scores):.2f} %"
    if len(runs) > 1:
        top1 += f" ({min(scores):.2f} - {max(scores):.2f}, {len(runs)} seeds)"
    epochs, images = (
        ", ".join(dict.fromkeys(str(run[name]) for run in runs)) for name in ("epochs", "images")
    )
    return *(f"{share:.1%}" for share in shares), top1, epochs, images


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
