"""What `find_zigs` costs, as ratios to tracing alone and to half the depth.

``python benchmarks/discovery.py`` runs `find_zigs` on abstract values and prints, for ResNet-50 at
224 pixels and BERT-base, its time as a multiple of ``jax.make_jaxpr`` of the same function in the
same process (at most 2.5, aim 1.5); for a decoder of 64 layers, its time as a multiple of that for
32 (at most 2.3); and for LLaMA-7B's shapes the seconds and the memory that it adds (at most 60 s,
2 GiB). It writes ``results/discovery.json`` and fails where a bound is passed. Expected: a minute.
"""

from __future__ import annotations

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import oto_jax
from benchmarks.catalogue.decoder import Decoder
from experiments.results import ROOT, write_results
from oto_jax.models.bert import BertConfig, BertForQuestionAnswering
from oto_jax.models.resnet import ResNet50

TRACING, DEPTH, SECONDS, GIBIBYTES = 2.5, 2.3, 60.0, 2.0
REPEATS = 7


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


def seconds(fn: Callable[[], Any]) -> float:
    """Seconds of this process in one call, which keeps one core busy; others' load is left out.

    Python's cyclic collector rests, as it does within `find_zigs`: tracing has the same advantage.
    """
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        fn()
        return time.process_time() - start
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


def main() -> None:
    """Measures, prints, writes the result file and judges."""
    before = peak_gib()
    llama_s = decoder_seconds(Decoder())
    added = peak_gib() - before
    figures = {
        "ResNet-50, 224 pixels": against_tracing(*resnet50()),
        "BERT-base, 384 tokens": against_tracing(*bert_base()),
        "64 layers against 32": against_half_the_depth(),
        "LLaMA-7B": {"find_zigs_s": llama_s, "peak_gib": peak_gib(), "added_gib": added},
    }
    for name, row in figures.items():
        print(f"{name:24}", "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    write_results(ROOT / "results" / "discovery.json", figures, seed=0)
    passed = [
        figures["ResNet-50, 224 pixels"]["ratio"] <= TRACING,
        figures["BERT-base, 384 tokens"]["ratio"] <= TRACING,
        figures["64 layers against 32"]["ratio"] <= DEPTH,
        llama_s <= SECONDS and figures["LLaMA-7B"]["added_gib"] <= GIBIBYTES,
    ]
    if not all(passed):
        sys.exit(f"bounds kept: {passed}")


if __name__ == "__main__":
    main()
