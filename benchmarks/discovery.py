"""What `find_zigs` costs, as ratios to tracing alone, to other libraries and to half the depth.

``python benchmarks/discovery.py`` runs `find_zigs` on abstract values and prints, for VGG16-BN,
ResNet-50 and BERT-base, its time as a multiple of ``jax.make_jaxpr`` of the same function in the
same process (at most 2.5, aim 1.5); for a decoder of 64 layers, its time as a multiple of that for
32 (at most 2.3); and for LLaMA-7B's shapes the seconds and the memory that it adds (at most 60 s,
2 GiB).

Where `make peers` has set up PyTorch, networks of the same shape go through Torch-Pruning's
dependency graph and only_train_once's in turn with ours, by wall time: at most only_train_once's on
BERT-base. Their ResNet-50 and BERT-base are those of Hugging Face's transformers, their VGG16-BN is
that of ``benchmarks/peers/networks.py``. Theirs run on real weights, as they need them; making the
network is not counted. only_train_once 3.0.1 names private parts of torch that have moved since:
where it fails to import, they are put back under their old names in that process, and the result
file says so (``moved``); its own code runs as it is.

It writes ``results/discovery.json`` and fails where a bound is passed. Expected: three minutes on
two quiet cores, one without peers.
"""

from __future__ import annotations

import dataclasses
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from benchmarks.bounds import Bound, leave_if_over, record, show
from benchmarks.catalogue.decoder import Decoder
from benchmarks.peers.environment import Ask, PeersMissingError, conversation
from experiments.results import ROOT, write_results
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig
from oto_jax.models.resnet import ResNet50
from oto_jax.models.vgg import VGG16_BN

TRACING, DEPTH, SECONDS, GIBIBYTES = 2.5, 2.3, 60.0, 2.0
REPEATS = 7
PEERS = ("Torch-Pruning", "Torch-Pruning, groups", "only_train_once")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run.

    Attributes:
      rounds: of the comparison with the peers.
      results: the result file.
    """

    rounds: int = 5
    results: Path = ROOT / "results" / "discovery.json"


def vgg16_bn() -> tuple[Any, ...]:
    """VGG16-BN at 32 pixels: the module, its abstract variables and input."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    model = VGG16_BN()
    return model, jax.eval_shape(model.init, jax.random.key(0), image), image


def resnet50() -> tuple[Any, ...]:
    """ResNet-50 at 224 pixels: the module, its abstract variables and input."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    model = ResNet50()
    return model, jax.eval_shape(model.init, jax.random.key(0), image), image


def bert_base() -> tuple[Any, ...]:
    """BERT-base for question answering on 384 tokens."""
    ids = jax.ShapeDtypeStruct((1, 384), np.int32)
    model = BertForQuestionAnswering(BertConfig())
    return model, jax.eval_shape(model.init, jax.random.key(0), ids), ids


def seconds(fn: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of this process in one call, which keeps one core busy; others' load is left out.

    Python's cyclic collector rests, as it does within `find_zigs`: tracing has the same advantage.
    """
    gc.collect()
    gc.disable()
    try:
        start = clock()
        fn()
        return clock() - start
    finally:
        gc.enable()


def against_tracing(model: Any, *args: Any) -> dict[str, float]:
    """Median seconds of tracing and of discovery, in turn, and the median of their ratios."""

    def trace() -> Any:
        return jax.make_jaxpr(lambda *given: model.apply(*given))(*args)

    trace(), oto_jax.find_zigs(model, *args)  # what the first call alone pays for
    pairs = [(seconds(trace), seconds(lambda: oto_jax.find_zigs(model, *args)))
             for _ in range(REPEATS)]  # fmt: skip
    return {
        "make_jaxpr_s": statistics.median(a for a, _ in pairs),
        "find_zigs_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def against_peers(ask: Ask, rounds: int, subject: str, model: Any, *args: Any) -> dict[str, Any]:
    """Median seconds of wall time of ours and of each peer, in turn, and the ratio ours / theirs.

    A peer that fails says how.
    """
    ours: list[float] = []
    answers: dict[str, list[dict[str, Any]]] = {peer: [] for peer in PEERS}
    for _ in range(rounds):
        ours.append(seconds(lambda: oto_jax.find_zigs(model, *args), time.perf_counter))
        for peer, found in answers.items():
            if not found or "seconds" in found[-1]:
                found.append(ask(f"{peer}\t{subject}"))
    rows: dict[str, Any] = {"find_zigs": {"seconds": statistics.median(ours), "all": ours}}
    for peer, found in answers.items():
        if "failure" in found[-1]:
            rows[peer] = found[-1]
            continue
        theirs = [answer["seconds"] for answer in found]
        middle = statistics.median(theirs)
        ratio = statistics.median(ours) / middle
        rows[peer] = {"seconds": middle, "all": theirs, "ours_over_theirs": ratio}
    return rows


def with_peers(rounds: int) -> dict[str, Any]:
    """The comparison with the peers; where they are absent, the reason."""
    try:
        with conversation("discover.py") as (greeting, ask):
            rows = {
                name: against_peers(ask, rounds, name, *make()) for name, make in SUBJECTS.items()
            }
    except PeersMissingError as error:
        return {"skipped": str(error)}
    return {**greeting, "models": rows}


def print_peers(peers: dict[str, Any]) -> None:
    """Seconds of all, and ours over theirs."""
    if "skipped" in peers:
        print(f"peers skipped: {peers['skipped']}")
        return
    if peers["moved"]:
        print(f"only_train_once fails with this torch ({peers['moved']}); run with the names back")
    for name, rows in peers["models"].items():
        print(f"{name:24} find_zigs {rows['find_zigs']['seconds']:.3f} s", end="")
        for peer in PEERS:
            row = rows[peer]
            shown = row.get("failure") or f"{row['seconds']:.3f} s ({row['ours_over_theirs']:.2f})"
            print(f"  {peer} {shown}", end="")
        print()


def decoder_seconds(decoder: Decoder) -> float:
    """Seconds of `find_zigs` on a decoder, the residual width to be found too."""
    ids = jax.ShapeDtypeStruct((1, 128), np.int32)
    params = decoder.parameters()
    return seconds(lambda: oto_jax.find_zigs(decoder, params, ids, narrow_only=True))


def against_half_the_depth() -> dict[str, float]:
    """Least seconds of discovery on 32 and on 64 narrow layers, measured in turn."""
    small = {"width": 64, "heads": 4, "key_value_heads": 2, "hidden": 96, "vocabulary": 100}
    shallow, deep = Decoder(layers=32, **small), Decoder(layers=64, **small)
    decoder_seconds(shallow)
    pairs = [(decoder_seconds(shallow), decoder_seconds(deep)) for _ in range(REPEATS)]
    half, whole = (min(column) for column in zip(*pairs, strict=True))
    return {"32_layers_s": half, "64_layers_s": whole, "ratio": whole / half}


def peak_gib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


SUBJECTS = {"VGG16-BN": vgg16_bn, "ResNet-50": resnet50, "BERT-base": bert_base}
NAMES = {
    "VGG16-BN": "VGG16-BN, 32 pixels",
    "ResNet-50": "ResNet-50, 224 pixels",
    "BERT-base": "BERT-base, 384 tokens",
}


def main(config: Config) -> None:
    """Measures, prints, writes the result file and judges."""
    before = peak_gib()
    llama_s = decoder_seconds(Decoder())
    added = peak_gib() - before
    figures: dict[str, dict[str, float]] = {
        **{NAMES[name]: against_tracing(*make()) for name, make in SUBJECTS.items()},
        "64 layers against 32": against_half_the_depth(),
        "LLaMA-7B": {"find_zigs_s": llama_s, "peak_gib": peak_gib(), "added_gib": added},
    }
    for name, row in figures.items():
        print(f"{name:24}", "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    peers = with_peers(config.rounds)
    print_peers(peers)
    judged = bounds(figures, peers)
    write_results(config.results, {**figures, "peers": peers, **record(judged)}, seed=0)
    show(judged)
    leave_if_over(judged)


def bounds(figures: dict[str, dict[str, float]], peers: dict[str, Any]) -> list[Bound]:
    """What is judged."""
    llama = figures["LLaMA-7B"]
    found = [
        *(Bound(f"{name}, of tracing", figures[name]["ratio"], TRACING) for name in NAMES.values()),
        Bound("64 layers, of 32", figures["64 layers against 32"]["ratio"], DEPTH),
        Bound("LLaMA-7B's seconds", llama["find_zigs_s"], SECONDS),
        Bound("LLaMA-7B's GiB", llama["added_gib"], GIBIBYTES),
    ]
    theirs = peers.get("models", {}).get("BERT-base", {}).get("only_train_once", {})
    if "ours_over_theirs" in theirs:
        found.append(Bound("BERT-base, of only_train_once", theirs["ours_over_theirs"], 1.0))
    return found


if __name__ == "__main__":
    main(tyro.cli(Config, config=(tyro.conf.OmitArgPrefixes,)))
