"""The end of a run whose groups run through LayerNorm: `oto_jax.narrow` in place of `prune`.

A rebuilt module would divide by its new width; the narrowed program keeps the full width in its
means, so the residual width can be cut exactly. What is left is a function, not a module: it
is kept as the exported file ``slim.stablehlo``, weights included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import oto_jax
from experiments.errors import OptionError
from experiments.results import write_results
from experiments.training import parallel as par
from experiments.training.finish import comparison, how_it_went
from experiments.training.loop import Trained, train
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.run_folder import open_run
from experiments.training.state import variables_of
from experiments.training.task import Task


@dataclasses.dataclass(frozen=True)
class SlimFunction:
    """A narrowed model, to be called as a Linen module is.

    Attributes:
      apply: from the narrow variables and the inputs to logits.
      variables: the narrow variables.
    """

    apply: Callable[..., Any]
    variables: Any = dataclasses.field(compare=False, repr=False)


def train_and_narrow(
    config: Mapping[str, Any],
    task: Task,
    options: RunOptions,
    parallel: Parallel,
    workdir: Path,
    results: Path,
) -> tuple[dict[str, Any], SlimFunction] | None:
    """As `experiments.training.script.run_training`, through `oto_jax.narrow`.

    Args:
      config: the configuration, as JSON values.
      task: what is trained.
      options: how.
      parallel: the devices.
      workdir: the run's folder.
      results: the result file.

    Returns:
      The figures and the slim function, or None where the run stopped before its end.

    Raises:
      OptionError: if the network should be cut while it trains, which needs a module.
    """
    if options.shrink_every:
        raise OptionError("--groups residual cannot be cut while training: no --shrink-every")
    with open_run(workdir, config) as run:
        trained = train(task, options, parallel, run)
        if trained.stopped:
            print(trained.stopped_message(task))
            return None
        return finish_narrow(task, trained, parallel, config, results)


def finish_narrow(
    task: Task,
    trained: Trained,
    parallel: Parallel,
    config: Mapping[str, Any],
    results: Path,
) -> tuple[dict[str, Any], SlimFunction]:
    """As `experiments.training.finish.finish`, through `oto_jax.narrow`; also the slim function.

    Args:
      task: what was trained.
      trained: how it ended.
      parallel: the devices.
      config: the configuration, as JSON values.
      results: the result file.
    """
    network = trained.network
    variables = jax.tree.map(np.asarray, variables_of(trained.state))
    fn, held = oto_jax.narrow(network.model.apply, variables, network.zigs)
    slim = SlimFunction(fn, held)
    found = oto_jax.certify((network.model, variables), (fn, held), *task.inputs, **task.call)
    print(found)
    dead = oto_jax.group_sparsity(variables["params"], network.zigs).zero_groups
    groups = network.zigs.num_groups
    tests = (
        task.evaluate(network.model, par.replicate(parallel, variables)),
        task.evaluate(slim, par.replicate(parallel, held)),  # type: ignore[arg-type]
    )
    compared = comparison(task, found, tests, (groups, groups - int(dead)))
    figures = {**compared, **how_it_went(trained, config)}
    if parallel.host == 0:
        write_results(results, figures, seed=config["run"]["seed"])
    return figures, slim
