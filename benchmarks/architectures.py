"""Discovery, exact narrowing and rebuilding on models of many packages.

``python benchmarks/architectures.py`` builds every architecture of `benchmarks.catalogue` with
random non-zero weights in float64, makes half of each space's groups zero, cuts them out with
`oto_jax.narrow` and, where the model is a Flax module, with `oto_jax.prune`, and compares with the
masked model. It fails if a difference passes 1e-10 or an error is not one of the library's own. A
row is marked unproven where the zeros did not move the outputs: agreement then says nothing.

The packages are those of ``benchmarks/catalogue/requirements.txt``, which go into an environment of
their own beside the library; an architecture whose package is not installed is left out, saying so,
and the row of the last run with it stays. The rows go to
``results/architectures.json`` and, as a table, to ``docs/models.md``. Expected: a quarter of an
hour on two cores.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
# Nothing is timed but tracing, so the compiler may hurry.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from benchmarks.catalogue import (
    flax_packages,
    hugging_face,
    keras_applications,
    other_frameworks,
    own,
)
from benchmarks.catalogue.architecture import Architecture, double_precision
from benchmarks.catalogue.trial import Row, measure
from experiments.results import ROOT, commit, read_results, write_results, write_whole

BOUND = 1e-10
MODULES = (own, hugging_face, flax_packages, keras_applications, other_frameworks)
ARCHITECTURES = [architecture for module in MODULES for architecture in module.ARCHITECTURES]
RESULTS, PAGE = ROOT / "results" / "architectures.json", ROOT / "docs" / "models.md"


def version_of(package: str) -> str | None:
    """``package version``, or None where it is not installed."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} {oto_jax_version()}" if package == "oto_jax" else None


def oto_jax_version() -> str:
    """The version of the checkout, when the library is not installed."""
    text = (ROOT / "pyproject.toml").read_text()
    return text.split('version = "', 1)[1].split('"', 1)[0]


def try_one(architecture: Architecture, version: str, seed: int, limit: float) -> dict[str, Any]:
    """The row of one architecture, or the library's named error."""
    start = time.perf_counter()
    try:
        row: Row = measure(architecture, version, seed, limit)
    except oto_jax.OTOError as error:
        return {"name": architecture.name, "package": version, "error": _named(error)}
    taken = round(time.perf_counter() - start, 1)
    return {**dataclasses.asdict(row), "unproven": unproven(row.effect), "seconds": taken}


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def unproven(effect: float) -> bool:
    """Whether zeroing groups moved the outputs so little that agreement afterwards says nothing."""
    return effect <= BOUND


def wrong(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The architectures whose narrowed or rebuilt model computes something else."""
    return [
        row["name"]
        for row in rows
        if max(row.get("narrowed") or 0.0, row.get("difference") or 0.0) > BOUND
    ]


def line(row: Mapping[str, Any]) -> str:
    """One row for the terminal."""
    if "error" in row:
        return f"{row['name']:32} {row['error']}"
    effect = f"{row['effect']:.0e}{', unproven' if unproven(row['effect']) else ''}"
    return (
        f"{row['name']:32} {row['groups']:6} groups  {row['groupable']:4.0%} groupable"
        f"  {row['discovery_s']:5.2f} s  zeros moved outputs by {effect}"
        f"  narrow {_number(row['narrowed']):7}"
        f"  {row['rebuilt'][:60]} {_number(row['difference'])}  [{row['seconds']:.0f} s]"
    )


def _number(value: float | None) -> str:
    return "" if value is None else ("0" if value == 0 else f"{value:.0e}")


def page(results: Mapping[str, Any]) -> str:
    """``docs/models.md`` from the result file."""
    rows = results["architectures"]
    done = [row for row in rows if "error" not in row]
    foreign = sum(not row["package"].startswith("oto_jax") for row in rows)
    worst = max(max(row["narrowed"] or 0.0, row["difference"] or 0.0) for row in done)
    ratios = sorted(row["discovery_s"] / row["trace_s"] for row in done)
    outcomes = collections.Counter(row["rebuilt"].split(":")[0] for row in done if row["rebuilt"])
    counted = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
    table = [
        "| model | code from | parameters | groups | groupable | removed | discovery, s"
        " | narrow | prune | difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_table_row, rows),
    ]
    refused = [(row["name"], row["rebuilt"]) for row in done if ":" in row["rebuilt"]]
    refused += [(row["name"], row["error"]) for row in rows if "error" in row]
    errors = [f"- {name}: {text.splitlines()[0]}" for name, text in refused]
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    runs = collections.Counter(row["commit"] for row in rows)
    commits = ", ".join(f"{commit} ({count} rows)" for commit, count in runs.most_common())
    coarser = sum(row["precision"] != "float64" for row in done)
    return PAGE_TEXT.format(
        count=len(rows), foreign=foreign, worst=f"{worst:.1e}", bound=f"{BOUND:.0e}",
        median=f"{ratios[len(ratios) // 2]:.2f}", table="\n".join(table), counted=counted,
        errors="\n".join(errors) or "None.", command=results["command"], seed=results["seed"],
        commits=commits, coarser=coarser, date=results["date"], versions=versions,
        hardware=results["hardware"]["processor"], cores=results["hardware"]["cores"],
    )  # fmt: skip


def _table_row(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"| {row['name']} | {row['package']} | | | | | | {row['error'].split(':')[0]} | | |"
    name = row["name"]
    if row["groups"] and unproven(row["effect"]):
        name = f"{name} (unproven: the zeros moved no output)"
    cells = (
        name, row["package"], f"{row['parameters']:,}", f"{row['groups']:,}",
        f"{row['groupable']:.0%}", f"{row['removed']:.0%}", f"{row['discovery_s']:.2f}",
        _number(row["narrowed"]), row["rebuilt"].split(":")[0], _number(row["difference"]),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


PAGE_TEXT = """\
# Models it was tried on

{count} architectures, {foreign} of them written by others. Each has random non-zero weights in
float64 ({coarser} of them compute something in float32 all the same, as their code says); half of
the units of each space are made zero; `oto_jax.narrow` and, for Flax modules,
`oto_jax.prune` cut them out; the outputs are compared with those of the masked model. The worst
difference of all is {worst} of the largest output (allowed: {bound}). Adding exact zeros changes no
sum, so wherever the order of summation stays the same the difference is 0. `find_zigs` takes
{median} times as long as `jax.make_jaxpr` of the same function (median).

- *groups*: zero-invariant groups; *groupable*: the share of the parameters' entries in them;
  *removed*: the share of the parameters that is gone with half of each space's units.
- *narrow*, *difference*: worst difference against the masked model, by `oto_jax.narrow` and by the
  module that `oto_jax.prune` made. Empty: there are no groups, or the model is no Flax module.
- *prune*: what became of the module: the same class with another configuration, the class wrapped
  so that its layers have other widths, or the library's error, which points to `oto_jax.narrow`.
  ({counted})

Rows that say "residual width" were found with `narrow_only=True`. In all the others a mean over the
width of the residual stream (LayerNorm, RMSNorm) keeps that width whole, which is why a small
transformer is rarely groupable by more than a half. A model without groups is no failure: the
BatchNorms of InceptionV3 have no scale, so a zeroed filter still leaves its running mean behind;
each block of ConvNeXt V2 normalises by the mean over all its channels.

{table}

## Modules that cannot be rebuilt

{errors}

## How it was measured

The rows are of several runs of `python benchmarks/architectures.py`, at the commits {commits}. The
last run was `{command}`, seed {seed}, {date}; {versions}; {hardware}, {cores} cores. Models with
over a million parameters have the widths of the published ones, ResNet-20 too; the others are small
versions of what their names say. Written by `benchmarks/architectures.py` from
`results/architectures.json`, which has the commit and precision of each row; do not edit by hand.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    some = "names to run, as globs; the other rows stay as they are"
    parser.add_argument("--only", nargs="+", default=["*"], help=some)
    parser.add_argument("--seed", type=int, default=0)
    limit = "give up rebuilding a module after this long; 0 leaves it out"
    parser.add_argument("--prune-seconds", type=float, default=60.0, help=limit)
    alone = "write the page from the result file, running nothing"
    parser.add_argument("--page", action="store_true", help=alone)
    return parser.parse_args()


def main() -> None:
    """Runs, prints, writes the result file and the page, and judges."""
    given = arguments()
    if given.page:
        write_whole(PAGE, page(read_results(RESULTS)))
        return
    rows, absent = [], collections.Counter[str]()
    with double_precision():
        for architecture in ARCHITECTURES:
            version = version_of(architecture.package)
            if not any(fnmatch.fnmatchcase(architecture.name, glob) for glob in given.only):
                continue
            if version is None:
                absent[architecture.package] += 1
                continue
            row = try_one(architecture, version, given.seed, given.prune_seconds)
            rows.append({**row, "commit": commit()})
            print(line(row), flush=True)
            save(rows, given.seed)  # A run that is cut short leaves what it has.
    for package, count in absent.items():
        print(f"left out: {count} of {package}, which is not installed")
    if names := wrong(rows):
        sys.exit(f"wrong: {', '.join(names)}")


def save(rows: list[dict[str, Any]], seed: int) -> None:
    """Writes rows, with those of the last run for what is not installed now, and the page."""
    known = {row["name"]: row for row in rows}
    old = read_results(RESULTS)["architectures"] if RESULTS.exists() else []
    kept = {row["name"]: row for row in old}
    names = [a.name for a in ARCHITECTURES if a.name in known or a.name in kept]
    merged = [known.get(name) or kept[name] for name in names]
    write_results(RESULTS, {"architectures": json.loads(json.dumps(merged))}, seed=seed)
    write_whole(PAGE, page(read_results(RESULTS)))


if __name__ == "__main__":
    main()
