"""How discovery and pruning grow with depth and width.

``python benchmarks/scaling.py`` takes BERT encoders of 8 to 64 layers, 64 and 256 wide, with
half of all heads and feed-forward units at zero, and measures seconds of this process's processor
time, the least of a few runs: `jax.make_jaxpr`, `find_zigs` on abstract values, `make_plan` (which
units are zero), and `prune` (the plan, the narrower module, its variables, and the checks).

It prints, and writes to ``results/scaling.json``, the exponent of each in the depth: 1 is linear.
The bounds: twice the layers take at most 2.3 times as long, at every depth whose double is measured
and at both widths; and four times the width at most 1.5 times as long for discovery, which looks at
no value. Expected: two minutes; for a try, ``--depths 8 16 --repeats 1 --results /tmp/tried.json``.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from benchmarks.bounds import Bound, leave_if_over, record, show
from benchmarks.discovery import seconds
from benchmarks.zeroing import with_zeros
from experiments.results import ROOT, write_results
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig

TWICE_THE_DEPTH, FOUR_TIMES_THE_WIDTH = 2.3, 1.5
HIDDEN, HEAD_DIM, WIDER, LENGTH = 64, 16, 4, 64
WHAT = ("make_jaxpr", "find_zigs", "make_plan", "prune")
Rows = dict[tuple[int, int], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      depths: numbers of layers.
      repeats: of each measurement; the least counts.
      seed: of the weights.
      results: the result file.
    """

    depths: tuple[int, ...] = (8, 16, 32, 64)
    repeats: int = 3
    seed: int = 0
    results: Path = ROOT / "results" / "scaling.json"


def encoder(depth: int, width: int) -> BertForQuestionAnswering:
    """A BERT of so many layers, whose widths are so many times the smallest's."""
    hidden = HIDDEN * width
    config = BertConfig.uniform(depth, hidden, hidden // HEAD_DIM, 4 * hidden, vocabulary=1000)
    return BertForQuestionAnswering(config)


@dataclasses.dataclass(frozen=True)
class Case:
    """An encoder and what is measured of it.

    Attributes:
      depth: layers.
      width: as a multiple of the smallest.
      parameters: how many.
      calls: by name.
    """

    depth: int
    width: int
    parameters: int
    calls: Mapping[str, Callable[[], Any]]


def prepare(depth: int, width: int, seed: int) -> Case:
    """An encoder with half of its units at zero."""
    model = encoder(depth, width)
    ids = jax.ShapeDtypeStruct((1, LENGTH), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)
    rng = np.random.default_rng(seed)
    dense = jax.tree.map(lambda s: rng.normal(0, 0.02, s.shape).astype(s.dtype), shapes)
    zigs = oto_jax.find_zigs(model, shapes, ids)
    half = [space.start + np.arange(0, space.size, 2) for space in zigs.spaces]
    variables = with_zeros(dict(dense), zigs, np.concatenate(half))
    calls = {
        "make_jaxpr": lambda: jax.make_jaxpr(lambda *given: model.apply(*given))(shapes, ids),
        "find_zigs": lambda: oto_jax.find_zigs(model, shapes, ids),
        "make_plan": lambda: oto_jax.make_plan(variables, zigs),
        "prune": lambda: oto_jax.prune(model, variables, zigs),
    }
    return Case(depth, width, oto_jax.count_parameters(variables), calls)


def measure(cases: Sequence[Case], repeats: int) -> Rows:
    """Least seconds of each call; all take turns, so that a slow minute slows all alike."""
    rows: Rows = {
        (case.depth, case.width): {
            "depth": case.depth,
            "width": case.width,
            "parameters": case.parameters,
            **dict.fromkeys((f"{name}_s" for name in case.calls), math.inf),
        }
        for case in cases
    }
    for _ in range(repeats):
        for case in cases:
            row = rows[case.depth, case.width]
            for name, call in case.calls.items():
                row[f"{name}_s"] = min(row[f"{name}_s"], seconds(call))
    return rows


def exponent(rows: list[dict[str, float]], what: str) -> float:
    """By which power of the depth the time grows, from the shallowest to the deepest."""
    first, last = rows[0], rows[-1]
    if first["depth"] == last["depth"]:
        return 0.0
    grown = last[f"{what}_s"] / first[f"{what}_s"]
    return math.log(grown) / math.log(last["depth"] / first["depth"])


def bounds(rows: Rows) -> list[Bound]:
    """Growth with each doubling of the depth, and with the width."""
    found = []
    for (depth, width), row in rows.items():
        if half := rows.get((depth // 2, width)):
            for what in ("find_zigs", "prune"):
                name = f"{what} of {depth} layers, width x{width}, of {depth // 2} layers"
                found.append(Bound(name, row[f"{what}_s"] / half[f"{what}_s"], TWICE_THE_DEPTH))
        narrow = rows.get((depth, 1))
        if width != 1 and narrow:
            name = f"find_zigs of {depth} layers, width x{width}, of width x1"
            ratio = row["find_zigs_s"] / narrow["find_zigs_s"]
            found.append(Bound(name, ratio, FOUR_TIMES_THE_WIDTH))
    return found


def main(config: Config) -> None:
    """Measures, prints, writes, judges."""
    measure([prepare(2, 1, config.seed)], repeats=1)  # what the first call alone pays for
    sizes = [(depth, width) for width in (1, WIDER) for depth in config.depths]
    rows = measure([prepare(*size, config.seed) for size in sizes], config.repeats)
    print(f"{'layers':>8}{'width':>7}{'parameters':>13}", *(f"{name:>12}" for name in WHAT))
    for row in rows.values():
        times = "".join(f"{row[f'{name}_s']:11.3f} s" for name in WHAT)
        print(f"{row['depth']:8}{row['width']:6}x{row['parameters']:13,}{times}")
    exponents = {}
    for width in (1, WIDER):
        column = [row for row in rows.values() if row["width"] == width]
        exponents[f"width x{width}"] = {name: exponent(column, name) for name in WHAT}
    print("exponents of the depth:", exponents)
    judged = bounds(rows)
    figures = {"rows": list(rows.values()), "exponents": exponents, **record(judged)}
    write_results(config.results, figures, seed=config.seed)
    show(judged)
    leave_if_over(judged)


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,)))
