"""The end of a run: prune, certify, evaluate, save the slim model, write the result file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import oto_jax
from experiments.results import write_results
from experiments.training import parallel as par
from experiments.training.loop import Trained
from experiments.training.parallel import Parallel
from experiments.training.run_folder import RunFolder
from experiments.training.shrinking import from_the_start
from experiments.training.state import Variables, variables_of
from experiments.training.task import Task, abstract_variables, find_zigs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A pruned network and its figures.

    Attributes:
      pruned: the slim model.
      figures: JSON values: ``test`` and ``slim_test`` scores, ``certificate``, ``parameters`` and
        ``macs`` of the network at the start and of the slim one, ``kept_groups``.
    """

    pruned: oto_jax.Pruned
    figures: dict[str, Any]


def prune_and_compare(
    task: Task, model: Any, zigs: oto_jax.ZIGs, variables: Variables, parallel: Parallel
) -> Outcome:
    """Prunes a trained network and compares it with itself and with the task's full network.

    Args:
      task: what was trained.
      model: the network as it was trained: the task's, or one that was cut meanwhile.
      zigs: its groups.
      variables: its variables, one copy.
      parallel: the devices to evaluate on.
    """
    variables = jax.tree.map(np.asarray, variables)
    pruned = oto_jax.prune(model, variables, zigs)
    certificate = oto_jax.certify((model, variables), pruned, *task.inputs, **task.call)
    print(certificate)
    full_variables = abstract_variables(task, task.model)
    macs = [_macs(task, task.model, full_variables), _macs(task, pruned.model, pruned.variables)]
    parameters = map(oto_jax.count_parameters, (full_variables, pruned.variables))
    figures = {
        "test": task.evaluate(model, par.replicate(parallel, variables)),
        "slim_test": task.evaluate(pruned.model, par.replicate(parallel, pruned.variables)),
        "worst_absolute_difference": certificate.absolute,
        "worst_relative_difference": certificate.relative,
        "parameters": _compared(*parameters),
        "macs": _compared(*macs),
        "groups": _compared(find_zigs(task, task.model).num_groups, _kept_groups(pruned)),
    }
    return Outcome(pruned, figures)


def _kept_groups(pruned: oto_jax.Pruned) -> int:
    return sum(space.units.count for space in pruned.plan.spaces)


def _macs(task: Task, model: Any, variables: Variables) -> int:
    """Multiply-accumulates for one example."""
    apply = functools.partial(model.apply, **task.call)
    examples = len(jax.tree.leaves(task.inputs)[0])
    return oto_jax.count_macs(apply, variables, *task.inputs) // examples


def _compared(full: int, slim: int) -> dict[str, float]:
    return {"full": full, "slim": slim, "kept": slim / full}


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
    """
    network = trained.network
    variables = variables_of(trained.state)
    outcome = prune_and_compare(task, network.model, network.zigs, variables, parallel)
    figures = {
        **outcome.figures,
        "steps": int(trained.state.step),
        "training_minutes": trained.minutes,
        "config": config,
    }
    if parallel.host == 0:
        slim = from_the_start(run, task.model, network.cuts, outcome.pruned)
        oto_jax.save(run.path / "slim", slim, overwrite=True)
        write_results(results, figures, seed=config["run"]["seed"])
    return figures
