"""Latency of pruned networks beside their multiply-accumulates, and what `round_to` buys.

``python benchmarks/latency.py`` puts a share of the units of every space to zero, at random, in
VGG16-BN (32 pixels), ResNet-50 (ImageNet form, at 112 pixels so that a batch of 64 takes a second)
and BERT-base (64 tokens), all with random float32 weights; prunes; and times the compiled
networks, at batch 1 and 64, in turn:

* dense, and pruned to 3/4, 1/2 and 1/4 of the units: time ratio, MAC ratio, and their quotient;
* a network *defined* at half the widths from the start, by the model's own constructor, the best
  that any pruning can reach: whether XLA makes the same program of it as of the pruned one, and
  how long the pruned one takes beside it;
* odd widths (about 0.55 of the units, never an even number), and the same with ``round_to`` 8
  and 16: fewer units cut, but widths that vector units like (not for BERT-base, whose spaces of
  12 heads leave no room);
* a network with 8 units fewer in every space of 64 or more: widths such as 512 are powers of two,
  at which a processor's caches may work badly, so that the first few units cut save far more than
  their share. The quotient is given beside this network too, where that effect is gone;
* VGG16-BN's convolutions and dense layers alone, without what lies between them: how far the
  quotient is their own;
* the temporary memory that XLA takes.

The bounds are on the pruned networks of VGG16-BN at a batch of 64. Beside dense, the quotient is at
most 1.25. Beside the network with 8 units fewer it should be too; one that is larger is named as
over, here and in the result file, and is a failure if the network pruned to half also takes over
1.1 times as long as the one defined at those widths: what both need is the machine's doing, not
the pruning's.

It writes ``results/latency.json``. Expected: eight minutes on two quiet cores; for a try,
``--models VGG16-BN --batches 1 --rounds 3 --results /tmp/tried.json``.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from benchmarks.bounds import Bound, leave_if_over, record, show
from benchmarks.race import compared, race
from benchmarks.subjects import SUBJECTS, Kept, Subject
from benchmarks.vgg_layers import layers_alone
from benchmarks.zeroing import with_zeros
from experiments.results import ROOT, write_results

# Of VGG16-BN at a batch of 64: time ratio over MAC ratio, and pruned beside defined at its widths.
QUOTIENT, DEFINED = 1.25, 1.1
ODD = 0.55
FEWER, OF_AT_LEAST = 8, 64
FAIR = f"{FEWER} units fewer"
# Where a program lists the lines that it was written on, those of the caller among them.
SOURCE_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
Variables = Any


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      models: which of VGG16-BN, ResNet-50 and BERT-base.
      batches: batch sizes.
      kept: shares of the units that stay; a network is defined at the middle one.
      round_to: what odd widths are rounded up to.
      rounds: at most, of one model and batch size.
      seconds: after which no new round begins, though never before three.
      seed: of the weights, of the units to zero and of the order in each round.
      results: the result file.
    """

    models: tuple[str, ...] = tuple(SUBJECTS)
    batches: tuple[int, ...] = (1, 64)
    kept: tuple[float, ...] = (0.75, 0.5, 0.25)
    round_to: tuple[int, ...] = (8, 16)
    rounds: int = 60
    seconds: float = 15.0
    seed: int = 0
    results: Path = ROOT / "results" / "latency.json"


@dataclasses.dataclass(frozen=True)
class Network:
    """A module with variables."""

    model: nn.Module
    variables: Variables


def share_of(share: float) -> Kept:
    """So much of a space's units."""
    return lambda size: max(1, round(share * size))


def odd(size: int) -> int:
    """An odd number of units, about 0.55 of them."""
    return round(ODD * size) // 2 * 2 + 1


def a_few_less(size: int) -> int:
    """Eight units fewer, where there are many."""
    return size - FEWER if size >= OF_AT_LEAST else size


def all_but(zigs: oto_jax.ZIGs, kept: Kept, seed: int) -> np.ndarray:
    """The numbers of groups, drawn at random, but for so many of each space."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [space.start + rng.permutation(space.size)[kept(space.size) :] for space in zigs.spaces]
    )


def networks(subject: Subject, config: Config) -> dict[str, Network]:
    """All that are compared, by name; of the pruned ones, the largest difference is checked."""
    model, example = subject.model, subject.inputs(1)
    variables = jax.jit(model.init)(jax.random.key(config.seed), example)
    variables = {name: variables[name] for name in variables}
    zigs = oto_jax.find_zigs(model, variables, example)
    found = {"dense": Network(model, variables)}

    def pruned(kept: Kept, round_to: int = 1) -> Network:
        sparse = with_zeros(variables, zigs, all_but(zigs, kept, config.seed))
        slim = oto_jax.prune(model, sparse, zigs, round_to=round_to)
        certificate = oto_jax.certify((model, sparse), slim, example)
        if certificate.relative > 1e-4:
            sys.exit(f"the pruned network differs by {certificate.relative:.1e}")
        return Network(slim.model, slim.variables)

    found[FAIR] = pruned(a_few_less)
    for share in config.kept:
        found[f"pruned to {share:g}"] = pruned(share_of(share))
    defined = subject.define(share_of(middle(config)))
    fresh = jax.jit(defined.init)(jax.random.key(config.seed + 1), example)
    found["defined"] = Network(defined, fresh)
    if subject.rounds_widths:
        found["odd"] = pruned(odd)
        for multiple in config.round_to:
            found[f"odd, round_to {multiple}"] = pruned(odd, multiple)
    return found


def compiled(network: Network, inputs: jax.Array) -> Any:
    """The network's forward pass; the variables are arguments, not constants."""
    return jax.jit(network.model.apply).lower(network.variables, inputs).compile()


def program(executable: Any) -> str:
    """An optimized program without the names and source lines of what it was made from."""
    blocks = executable.as_text().split("\n\n")
    code = "\n\n".join(block for block in blocks if not block.startswith(SOURCE_TABLES))
    return re.sub(r"metadata=\{[^}]*\}|HloModule [^,]*,", "", code)


def measure(subject: Subject, batch: int, found: Mapping[str, Network], config: Config) -> Any:
    """Times, ratios to the dense network, memory, of one batch size."""
    inputs = subject.inputs(batch)
    programs = {name: compiled(network, inputs) for name, network in found.items()}
    held = {name: jax.device_put(network.variables) for name, network in found.items()}

    def call(name: str) -> Callable[[], Any]:
        return lambda: programs[name](held[name], inputs)

    times = in_turn({name: call(name) for name in found}, config)
    rows = {name: compared(times[name], times["dense"]) for name in found}
    for name, row in rows.items():
        memory = programs[name].memory_analysis()
        row["temporary_mb"] = memory.temp_size_in_bytes / 1e6
        row["arguments_mb"] = memory.argument_size_in_bytes / 1e6
    slim = f"pruned to {middle(config):g}"
    return {
        "rows": rows,
        "same_program_as_defined": program(programs["defined"]) == program(programs[slim]),
        "slim_over_defined": compared(times[slim], times["defined"]),
    }


def in_turn(calls: Mapping[str, Callable[[], Any]], config: Config) -> dict[str, list[float]]:
    """Seconds of each call, round by round."""
    return race(calls, rounds=config.rounds, seconds=config.seconds, seed=config.seed)


def middle(config: Config) -> float:
    """The share at which a network is defined too."""
    return config.kept[len(config.kept) // 2]


def convolutions(found: Mapping[str, Network], batch: int, config: Config) -> dict[str, Any]:
    """Times of VGG16-BN's convolutions and dense layers alone, each on an input of its own."""
    calls = {
        name: layers_alone(network.variables["params"], batch) for name, network in found.items()
    }
    times = in_turn(calls, config)
    return {name: compared(times[name], times["dense"]) for name in found}


def subject_figures(name: str, config: Config) -> dict[str, Any]:
    """Everything about one model."""
    subject = SUBJECTS[name]
    found = networks(subject, config)
    example = subject.inputs(1)
    sizes: dict[str, dict[str, float]] = {
        label: {
            "macs": oto_jax.count_macs(network.model.apply, network.variables, example),
            "parameters": oto_jax.count_parameters(network.variables),
        }
        for label, network in found.items()
    }
    for row in sizes.values():
        for count in ("macs", "parameters"):
            row[f"{count}_ratio"] = row[count] / sizes["dense"][count]
    figures: dict[str, Any] = {"input": subject.described, "networks": sizes, "batches": {}}
    for batch in config.batches:
        measured = measure(subject, batch, found, config)
        add_quotients(measured["rows"], sizes)
        if name == "VGG16-BN":
            measured["layers_alone"] = convolutions(found, batch, config)
            add_quotients(measured["layers_alone"], sizes)
        figures["batches"][str(batch)] = measured
        print_table(f"{name}, {subject.described}, batch {batch}", sizes, measured)
    return figures


def add_quotients(rows: dict[str, Any], sizes: Mapping[str, Any]) -> None:
    """Time ratio over MAC ratio, to the dense network and to the one with a few units fewer."""
    fair, macs = rows[FAIR]["median_ms"], sizes[FAIR]["macs"]
    for label, row in rows.items():
        row["time_over_macs"] = row["ratio"] / sizes[label]["macs_ratio"]
        row["fair_time_over_macs"] = row["median_ms"] / fair / (sizes[label]["macs"] / macs)


def print_table(title: str, sizes: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Rows as text."""
    heads = f"{'MACs':>7}{'params':>8}{'ms':>9}{'time':>7}{'quartiles':>15}{'rounds':>7}"
    print(f"\n{title:36}{heads}{'time/MACs':>11}{'fair':>7}{'temp. MB':>10}")
    for name, row in measured["rows"].items():
        low, high = row["ratio_quartiles"]
        size = sizes[name]
        print(
            f"{name:36}{size['macs_ratio']:7.1%}{size['parameters_ratio']:8.1%}"
            f"{row['median_ms']:9.2f}{row['ratio']:7.3f}{low:8.3f} -{high:6.3f}{row['rounds']:7}"
            f"{row['time_over_macs']:11.2f}{row['fair_time_over_macs']:7.2f}"
            f"{row['temporary_mb']:10.1f}"
        )
    for name, row in measured.get("layers_alone", {}).items():
        low, high = row["ratio_quartiles"]
        print(
            f"{f'  layers alone: {name}':51}{row['median_ms']:9.2f}{row['ratio']:7.3f}"
            f"{low:8.3f} -{high:6.3f}{row['rounds']:7}"
            f"{row['time_over_macs']:11.2f}{row['fair_time_over_macs']:7.2f}"
        )
    same = measured["same_program_as_defined"]
    print(f"pruned and defined at the same widths are one program: {same}")
    print(f"pruned beside defined: {spread(measured['slim_over_defined'])}")


def spread(row: Mapping[str, Any]) -> str:
    """A ratio with its quartiles."""
    low, high = row["ratio_quartiles"]
    return f"{row['ratio']:.3f} (quartiles {low:.3f} - {high:.3f}, {row['rounds']} rounds)"


def quotients(batch: Mapping[str, Any], key: str, what: str) -> list[Bound]:
    """The bounds on one quotient of the pruned networks of a batch size."""
    return [
        Bound(f"{name}: {what}", row[key], QUOTIENT)
        for name, row in batch["rows"].items()
        if name.startswith("pruned")
    ]


def judge(batch: Mapping[str, Any]) -> tuple[list[Bound], bool]:
    """All bounds on a batch size, and whether what is over is a failure."""
    to_macs = quotients(batch, "time_over_macs", "time over MACs")
    fair = quotients(batch, "fair_time_over_macs", "time over MACs, fair")
    ratio = batch["slim_over_defined"]["ratio"]
    defined = Bound("time pruned over time defined", ratio, DEFINED)
    unexplained = any(bound.is_over for bound in fair) and defined.is_over
    failed = any(bound.is_over for bound in to_macs) or unexplained
    return [*to_macs, *fair, defined], failed


def main(config: Config) -> None:
    """Measures, prints, writes, judges VGG16-BN at a batch of 64 where it was measured."""
    figures = {name: subject_figures(name, config) for name in config.models}
    batch = figures.get("VGG16-BN", {"batches": {}})["batches"].get("64")
    bounds, failed = judge(batch) if batch else ([], False)
    settings = {key: v for key, v in dataclasses.asdict(config).items() if key != "results"}
    content = {"models": figures, **record(bounds), "config": settings}
    write_results(config.results, content, seed=config.seed)
    print("\nVGG16-BN at a batch of 64:" if batch else "\nnothing to judge")
    show(bounds)
    if failed:
        leave_if_over(bounds)
    elif any(bound.is_over for bound in bounds):
        named = f"a network defined at the widths of pruned to {middle(config):g}"
        print(f"{named} takes as long, so this is no failure")


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,)))
