"""The tables in README.md and docs/, written from the result files.

``python docs/tables.py`` rewrites what stands between ``<!-- table: NAME -->`` and
``<!-- /table -->``; a test compares the two. `TABLES` says which result files a table shows.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs import accuracy
from experiments.comparison import align
from experiments.results import write_whole

BLOCK = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- /table -->", re.DOTALL)
# What benchmarks/latency.py allows a quotient of VGG16-BN at a batch of 64, the fair one.
BOUND_ON_QUOTIENTS = 1.25


def optimizer(results: Mapping[str, Any]) -> str:
    """Updates beside AdamW's, steps beside SGD's."""
    heads = ("milliseconds", "ratio", "middle half of the rounds", "temporary memory")
    parts = []
    for title, key in (("update and apply", "updates"), ("training step", "steps")):
        counted = {
            "passes": "passes",
            "floor_passes": "least passes",
            "times_floor": "times the floor",
        }
        counted = {k: head for k, head in counted.items() if k in results[key]["sgd"]}
        rows: list[tuple[str, ...]] = [(title, *heads, *counted.values())]
        for name, row in results[key].items():
            low, high = row["ratio_quartiles"]
            rows.append(
                (
                    name,
                    f"{row['median_ms']:.1f}",
                    f"{row['ratio']:.2f}",
                    f"{low:.2f} - {high:.2f}",
                    f"{row['temporary_mb']:.1f} MB",
                    *(f"{row[k]:.1f}" if k in row else "" for k in counted),
                )
            )
        parts.append(align(rows))
    return "\n\n".join(parts) + "\n\n" + _run_on(results)


def target_mode(results: Mapping[str, Any]) -> str:
    """Mean accuracy and cross-entropy over the seeds, by way and share kept."""
    cells: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        cells.setdefault((row["way"], row["kept"]), []).append(row)
    shares = [kept for kept in sorted({kept for _, kept in cells}) if kept < 1]
    rows: list[tuple[str, ...]] = [("way", *(f"{kept:.0%} of the MACs" for kept in shares))]
    for way in dict.fromkeys(way for way, _ in cells):
        if way != "dense":
            rows.append((way, *(_mean(cells.get((way, kept), [])) for kept in shares)))
    full = _mean(cells[("dense", 1.0)])
    return f"{align(rows)}\n\nDense: {full}. {_run_on(results)}"


def _mean(rows: list[Mapping[str, Any]]) -> str:
    """Mean accuracy, its range, mean cross-entropy."""
    if not rows:
        return ""
    found = [100 * row["accuracy"] for row in rows]
    loss = statistics.mean(row["cross_entropy"] for row in rows)
    return f"{statistics.mean(found):.2f} % ({min(found):.1f} - {max(found):.1f}), {loss:.3f}"


def ranking(results: Mapping[str, Any]) -> str:
    """A published network by the order in which groups were given up."""
    heads = ("top-1", "cross-entropy", "MACs", "parameters", "channels in blocks", "in streams")
    rows: list[tuple[str, ...]] = [("order", *heads)]
    for name, row in results["rows"].items():
        rows.append(
            (
                name,
                f"{row['top1']:.2f} %",
                f"{row['cross_entropy']:.3f}",
                f"{row['kept_macs']:.1%}",
                f"{row['kept_parameters']:.1%}",
                f"{row['channels_inside_blocks']}",
                f"{row['channels_of_streams']}",
            )
        )
    return f"{align(rows)}\n\n{_run_on(results)}"


def discovery(results: Mapping[str, Any]) -> str:
    """Seconds of discovery, of tracing alone, and of other libraries in turn with ours."""
    rows: list[tuple[str, ...]] = [("model", "`jax.make_jaxpr`", "`find_zigs`", "ratio")]
    for name, row in results.items():
        if isinstance(row, dict) and "ratio" in row and "make_jaxpr_s" in row:
            seconds = f"{row['make_jaxpr_s']:.2f} s", f"{row['find_zigs_s']:.2f} s"
            rows.append((name, *seconds, f"{row['ratio']:.2f}"))
    llama = results["LLaMA-7B"]
    rows.append(("LLaMA-7B's shapes", "", f"{llama['find_zigs_s']:.2f} s", ""))
    deep = results["64 layers against 32"]["ratio"]
    parts = [align(rows), *_peers(results.get("peers", {}))]
    ending = f"64 layers take {deep:.2f} times as long as 32. {_run_on(results)}"
    return "\n\n".join([*parts, ending])


def _peers(peers: Mapping[str, Any]) -> list[str]:
    """Wall time beside other libraries', and how many times theirs is ours."""
    if "models" not in peers:
        return []
    names = [name for name in next(iter(peers["models"].values())) if name != "find_zigs"]
    rows: list[tuple[str, ...]] = [("model", "`find_zigs`", *names)]
    for model, found in peers["models"].items():
        cells = [_peer(found[name]) for name in names]
        rows.append((model, f"{found['find_zigs']['seconds']:.2f} s", *cells))
    versions = ", ".join(f"{name} {version}" for name, version in peers["versions"].items())
    moved = peers.get("moved")
    mended = f" only_train_once runs with a mended import (without: `{moved}`)." if moved else ""
    ending = f"Wall time; in brackets: their time divided by ours ({versions}).{mended}"
    return [f"{align(rows)}\n\n{ending}"]


def _peer(row: Mapping[str, Any]) -> str:
    if "failure" in row:
        return f"failed: {row['failure']}"
    return f"{row['seconds']:.2f} s ({1 / row['ours_over_theirs']:.1f} times)"


def latency(results: Mapping[str, Any]) -> str:
    """Time, MACs and their quotient by model and network; a pair of columns per batch size.

    In brackets the quotient beside the network with a few units fewer, not the dense one.
    """
    parts = []
    for model, found in results["models"].items():
        batches = found["batches"]
        columns = ("ms", "time / MACs (fair)")
        heads = [f"batch {size}: {what}" for size in batches for what in columns]
        rows: list[tuple[str, ...]] = [
            (f"{model}, {found['input']}", "MACs", "parameters", *heads, "temporary memory")
        ]
        for name, sizes in found["networks"].items():
            measured = [batch["rows"][name] for batch in batches.values()]
            cells = [c for row in measured for c in _time_and_quotient(row)]
            shares = f"{sizes['macs_ratio']:.1%}", f"{sizes['parameters_ratio']:.1%}"
            rows.append((name, *shares, *cells, f"{measured[-1]['temporary_mb']:.0f} MB"))
        parts.append(align(rows))
    return "\n\n".join([*parts, f"{_over_the_bound(results)}{_run_on(results)}"])


def _over_the_bound(results: Mapping[str, Any]) -> str:
    """Which rows of VGG16-BN at a batch of 64 are over, as a sentence; none: nothing."""
    batch = results["models"].get("VGG16-BN", {"batches": {}})["batches"].get("64", {"rows": {}})
    fair = {name: row["fair_time_over_macs"] for name, row in batch["rows"].items()}
    fair.pop("dense", None)  # widths that are powers of two, which "fair" is to leave out
    over = [f"{name} ({found:.2f})" for name, found in fair.items() if found > BOUND_ON_QUOTIENTS]
    if not over:
        return ""
    return f"VGG16-BN at batch 64, in brackets over {BOUND_ON_QUOTIENTS}: {', '.join(over)}. "


def _time_and_quotient(row: Mapping[str, Any]) -> tuple[str, str]:
    quotients = f"{row['time_over_macs']:.2f} ({row['fair_time_over_macs']:.2f})"
    return f"{row['median_ms']:.2f}", quotients


def scaling(results: Mapping[str, Any]) -> str:
    """Seconds of discovery and of pruning by depth and width."""
    names = ("make_jaxpr", "find_zigs", "make_plan", "prune")
    rows: list[tuple[str, ...]] = [
        ("layers", "width", "parameters", *(f"`{name}`" for name in names))
    ]
    for row in results["rows"]:
        sizes = f"{row['depth']}", f"x{row['width']}", f"{row['parameters']:,}"
        rows.append((*sizes, *(f"{row[f'{name}_s']:.2f} s" for name in names)))
    return f"{align(rows)}\n\n{_run_on(results)}"


def shrinking(results: Mapping[str, Any]) -> str:
    """Total time of training with and without cuts, and of dense training."""
    heads = ("time", "processor time", "compiling", "a step at the end", "MACs left")
    rows: list[tuple[str, ...]] = [("training", *heads)]
    for name, row in results["runs"].items():
        spent = ("seconds", "processor_seconds", "compile_seconds")
        times = tuple(f"{row[key]:.0f} s" for key in spent)
        step = f"{row['last_step_ms']:.0f} ms"
        rows.append((name, *times, step, f"{row.get('kept_macs', 1.0):.0%}"))
    found = results["agreement"]
    ending = (
        f"Shrinking takes {results['ratio']:.2f} of the time without,"
        f" {results['ratio_to_dense']:.2f} of that of dense training. The two networks put"
        f" {found['same_class']:.2%} of the test images into the same class (top-1"
        f" {found['top1_without']:.2f} and {found['top1_with']:.2f} %), rounding having grown over"
        f" the training. {_in_float64(results)}"
    )
    return f"{align(rows)}\n\n{_shrinking_setting(results)}\n\n{ending} {_run_on(results)}"


def _shrinking_setting(results: Mapping[str, Any]) -> str:
    config, shrunk = results["config"], results["runs"]["hspg, shrinking"]
    reached = 1 + config["target_epochs"]  # the window begins with the second epoch
    planned = -(-reached // config["shrink_every"]) * config["shrink_every"]
    cut = max(shrunk.get("epochs_before_cuts", [planned]))
    after, left = config["epochs"] - cut, f"{shrunk['kept_macs']:.0%}"
    return (
        f"The published ResNet-{config['depth']}, {config['epochs']} epochs of"
        f" {config['train_images']:,} CIFAR-10 images, one run of each kind. The window begins with"
        f" the second epoch, the target is reached after epoch {reached}, and the {after} epochs"
        f" after the cut take {left} of the MACs: the best case for shrinking. With so few images"
        " the network ends worse than it was published; only time is compared here."
    )


def _in_float64(results: Mapping[str, Any]) -> str:
    exact, config = results["agreement_in_float64"], results["config"]
    share, apart = exact["same_class"], exact["worst_relative_difference"]
    images = "all test images" if share == 1 else f"{share:.2%} of the test images"
    logits = "are identical" if apart == 0 else f"differ by at most {apart:.0e} of the largest"
    return (
        f"The same comparison in float64, {config['exact_epochs']} epochs of"
        f" {config['exact_images']:,} images: {images} in the same class,"
        f" after {exact['ratio']:.2f} of the time without; the logits, compared after"
        f" rounding to float32, {logits}."
    )


def _run_on(results: Mapping[str, Any]) -> str:
    hardware = results["hardware"]
    where = f"{hardware['processor']}, {hardware['cores']} cores, {hardware['devices']}"
    return f"(`{results['command']}`, {where}, jax {results['versions']['jax']}.)"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table and where its figures are.

    Attributes:
      files: result files; one that is not there has not been run.
      write: from their contents, in this order (None: not run), to Markdown.
    """

    files: tuple[str, ...]
    write: Callable[..., str]


def _of_one_file(name: str, write: Callable[[Mapping[str, Any]], str]) -> Table:
    return Table((f"results/{name}.json",), lambda found: write(found) if found else "Not run.")


TABLES: Mapping[str, Table] = {
    "digits": Table(accuracy.DIGITS_FILES, accuracy.digits),
    "discovery": _of_one_file("discovery", discovery),
    "latency": _of_one_file("latency", latency),
    "optimizer": _of_one_file("optimizer", optimizer),
    "optimizer_gpu": _of_one_file("optimizer_gpu", optimizer),
    "ranking": _of_one_file("ranking", ranking),
    "scaling": _of_one_file("scaling", scaling),
    "screening": _of_one_file("screening", accuracy.screening),
    "shrinking": _of_one_file("shrinking", shrinking),
    "target_mode": _of_one_file("target_mode", target_mode),
    "published": Table((accuracy.PUBLISHED,), accuracy.published),
    "beside": Table(accuracy.BESIDE_FILES, accuracy.beside),
    "paper": Table(accuracy.PAPER_FILES, accuracy.paper),
    "cifar_resnets": Table(accuracy.RESNET_FILES, accuracy.cifar_resnets),
    "squad": Table(accuracy.SQUAD_FILES, accuracy.squad),
}


def filled(text: str, read: Callable[[str], str | None], to_root: str = "") -> str:
    """A page with its tables written anew, each with links to its result files.

    Args:
      text: the page.
      read: from the path of a result file, relative to the repository, to its text; None: there
        is no such file.
      to_root: from the page to the repository, ``../`` for instance.
    """

    def fill(match: re.Match[str]) -> str:
        table = TABLES[match[1]]
        texts = {file: read(file) for file in table.files}
        found = table.write(*(None if t is None else json.loads(t) for t in texts.values()))
        links = [f"[{Path(f).name}]({to_root}{f})" for f, t in texts.items() if t is not None]
        source = f"\n\nFigures from {', '.join(links)}." if links else ""
        return f"<!-- table: {match[1]} -->\n{found}{source}\n<!-- /table -->"

    return BLOCK.sub(fill, text)


def to_root(page: Path) -> str:
    """The way from a page to the repository's root."""
    return "../" * (len(page.relative_to(ROOT).parts) - 1)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(name: str) -> str | None:
    """A result file as it lies here."""
    return (ROOT / name).read_text() if (ROOT / name).exists() else None


def main() -> None:
    """Rewrites the pages whose tables are not those of the result files."""
    for page in pages():
        text = page.read_text()
        new = filled(text, read, to_root(page))
        if new != text:
            write_whole(page, new)
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
