"""The end of a run: prune, certify, evaluate, save the slim model, write the result file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import oto_jax
from experiments.errors import DivergedError
from experiments.results import write_results
from experiments.training import parallel as par
from experiments.training.loop import Trained
from experiments.training.parallel import Parallel
from experiments.training.run_folder import RunFolder
from experiments.training.shrinking import from_the_start
from experiments.training.state import Variables, variables_of
from experiments.training.task import Network, Task, find_zigs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A pruned network and its figures.

    Attributes:
      pruned: the slim model, as a cut of the network at the start.
      figures: JSON values: ``test`` and ``slim_test`` scores, the worst differences of their
        outputs (in float32, see `in_single_precision`), ``parameters``, ``macs`` and ``groups`` of
        the network at the start and of the slim one.
    """

    pruned: oto_jax.Pruned
    figures: dict[str, Any]


def prune_and_compare(
    task: Task, network: Network, variables: Variables, parallel: Parallel, run: RunFolder
) -> Outcome:
    """Prunes a trained network and compares the slim one with the task's full network.

    A network that was cut while it trained stands for a full one whose dead groups are zero: the
    slim one is compared with that, and pruned from it, as if at once.

    Args:
      task: what was trained.
      network: as it was trained: the task's, or what was left of it after cuts.
      variables: its variables, one copy.
      parallel: the devices to evaluate on.
      run: where the cuts are written down.
    """
    variables = jax.tree.map(np.asarray, variables)
    left = oto_jax.prune(network.model, variables, network.zigs)
    pruned = from_the_start(run, task.model, network.cuts, left)
    full = oto_jax.widen(pruned.variables, pruned.plan) if network.cuts else variables
    models = (in_single_precision(m) for m in (task.model, pruned.model))
    pairs = zip(models, (full, pruned.variables), strict=True)
    certificate = oto_jax.certify(*pairs, *task.inputs, **task.call)
    print(certificate)
    tests = (
        task.evaluate(task.model, par.replicate(parallel, full)),
        task.evaluate(pruned.model, par.replicate(parallel, pruned.variables)),
    )
    kept = sum(space.units.count for space in pruned.plan.spaces)
    groups = find_zigs(task, task.model).num_groups
    return Outcome(pruned, comparison(task, certificate, tests, (groups, kept)))


def in_single_precision(model: nn.Module) -> nn.Module:
    """A model whose field ``dtype`` is of half precision, in float32 instead; any other as it is.

    Two widths round half precision in other places, by more than a cut may change.
    """
    dtype = getattr(model, "dtype", None)
    half = dtype is not None and jnp.finfo(dtype).bits < 32
    return model.clone(dtype=jnp.float32) if half else model


def comparison(
    task: Task,
    certificate: oto_jax.Certificate,
    tests: tuple[Mapping[str, float], Mapping[str, float]],
    groups: tuple[int, int],
) -> dict[str, Any]:
    """The figures of a full network and of a slim one, for a result file.

    Args:
      task: what was trained.
      certificate: of the two, on the task's inputs.
      tests: their scores, full and slim.
      groups: how many groups they have.
    """
    full, slim = certificate.full, certificate.slim
    examples = len(jax.tree.leaves(task.inputs)[0])
    return {
        "test": tests[0],
        "slim_test": tests[1],
        "worst_absolute_difference": certificate.absolute,
        "worst_relative_difference": certificate.relative,
        "parameters": _compared(full.parameters, slim.parameters),
        "macs": _compared(full.macs // examples, slim.macs // examples),
        "groups": _compared(*groups),
    }


def _compared(full: int, slim: int) -> dict[str, float]:
    return {"full": full, "slim": slim, "kept": slim / full}


def how_it_went(trained: Trained, config: Mapping[str, Any]) -> dict[str, Any]:
    """How a network was trained, for a result file."""
    return {
        "steps": int(trained.state.step),
        "training_minutes": trained.minutes,
        "starts": trained.starts,
        "config": config,
    }


def finish(
    task: Task,
    trained: Trained,
    parallel: Parallel,
    run: RunFolder,
    config: Mapping[str, Any],
    results: Path,
) -> dict[str, Any]:
    """Prunes what was trained, compares, saves it in ``RUN/slim``, and writes the result file.

    Args:
      task: what was trained.
      trained: how it ended.
      parallel: the devices.
      run: the run's folder.
      config: the configuration, as JSON values.
      results: the result file.

    Returns:
      The figures.

    Raises:
      DivergedError: if one of them is not finite.
    """
    variables = variables_of(trained.state)
    outcome = prune_and_compare(task, trained.network, variables, parallel, run)
    figures = {**outcome.figures, **how_it_went(trained, config)}
    if parallel.host == 0:
        oto_jax.save(run.path / "slim", outcome.pruned, overwrite=True)
        try:
            write_results(results, figures, seed=config["run"]["seed"])
        except ValueError as error:
            raise DivergedError(
                f"a figure is not finite, so there is no {results.name}: {figures['test']} in the"
                f" test; the network is in {run.path}"
            ) from error
    return figures
