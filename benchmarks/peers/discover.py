"""How long the peers take to find what has to be cut together; runs in their environment.

Reads lines ``PEER<tab>MODEL`` and answers each with a line of JSON: ``{"seconds": ...}`` or
``{"failure": ...}``, after a first line with the versions. Python's cyclic collector rests, as it
does on the other side. Names that torch has moved are put back in memory for only_train_once 3.0.1,
which fails to import without.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib.metadata
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.peers import networks

PACKAGES = ("torch", "torch-pruning", "only-train-once", "transformers")


def torch_pruning_graph(model: Any, example: Any) -> Any:
    """Torch-Pruning's dependency graph (Fang et al., CVPR 2023)."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)


def torch_pruning_groups(model: Any, example: Any) -> Any:
    """The same and all groups listed, which is what `find_zigs` returns."""
    return list(torch_pruning_graph(model, example).get_all_groups())


def only_train_once(model: Any, example: Any) -> Any:
    """The pruning zero-invariant groups of only_train_once."""
    from only_train_once import OTO

    return OTO(model, example)


PEERS: dict[str, Callable[[Any, Any], Any]] = {
    "Torch-Pruning": torch_pruning_graph,
    "Torch-Pruning, groups": torch_pruning_groups,
    "only_train_once": only_train_once,
}


def bring_back_what_torch_moved() -> str | None:
    """Gives only_train_once 3.0.1 the private names of torch that it was written for.

    Torch moved its TorchScript exporter; without this, the import fails.

    Returns:
      What failed before, or None.
    """
    try:
        import only_train_once  # noqa: F401
    except ModuleNotFoundError as error:
        failure = f"{type(error).__name__}: {error}"
    else:
        return None
    for name in [name for name in sys.modules if name.startswith("only_train_once")]:
        del sys.modules[name]
    from torch.onnx._internal.torchscript_exporter import _globals, symbolic_helper, utils

    onnx: Any = torch.onnx
    sys.modules["torch.onnx._globals"] = _globals
    onnx._globals = _globals
    onnx.symbolic_helper = symbolic_helper
    onnx._optimize_graph = utils._optimize_graph
    if not hasattr(onnx, "OperatorExportTypes"):
        onnx.OperatorExportTypes = torch._C._onnx.OperatorExportTypes
    return failure


def timed(build: Callable[[Any, Any], Any], model: torch.nn.Module, example: Any) -> float:
    """Seconds of wall time, with torch's own threads."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        build(model, example)
        return time.perf_counter() - start
    finally:
        gc.enable()


def main() -> None:
    """Answers until there are no more lines."""
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # the peers print what they do
    failure = bring_back_what_torch_moved()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(json.dumps({"versions": versions, "moved": failure}), file=answers, flush=True)
    built: dict[str, Any] = {}
    for line in sys.stdin:
        peer, name = line.rstrip("\n").split("\t")
        if name not in built:
            built.clear()  # One network at a time is in memory.
            built[name] = networks.subject(name)
        model, example = built[name]
        answer: dict[str, Any]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer = {"seconds": timed(PEERS[peer], copy.deepcopy(model), example)}
        except Exception as error:  # Whatever a peer raises is its result.
            answer = {"failure": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
