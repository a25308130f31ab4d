"""Cutting dead groups out of a network while it trains.

Zero groups stay zero, so training goes on, on the narrower network, as if nothing had happened,
only faster. Each cut is written down, for a checkpoint made after it needs the narrower model to
be read back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import oto_jax
from experiments.training import parallel as par
from experiments.training.parallel import Parallel
from experiments.training.run_folder import RunFolder
from experiments.training.state import TrainState, variables_of


@dataclasses.dataclass(frozen=True)
class Cut:
    """A narrower network that goes on where the wider one stopped.

    Attributes:
      model: the narrower model.
      zigs: its groups.
      state: its training state.
      name: what `replay` finds the cut by.
    """

    model: Any
    zigs: oto_jax.ZIGs
    state: TrainState
    name: str


def cut(
    run: RunFolder, parallel: Parallel, model: Any, zigs: oto_jax.ZIGs, state: TrainState
) -> Cut | None:
    """Cuts the zero groups out of a training state and writes down how.

    Args:
      run: where the first host writes it down.
      parallel: the devices and hosts.
      model: the model that trains.
      zigs: its groups.
      state: one copy of its training state.

    Returns:
      The narrower network, or None where nothing is zero.
    """
    pruned = oto_jax.prune(model, variables_of(state), zigs)
    if pruned.plan.whole:
        return None
    name = f"cut-{int(state.step):08d}"
    if parallel.host == 0:
        # A run that was killed before its next checkpoint left this cut behind: it comes again.
        oto_jax.save(run.path / name, pruned, overwrite=True)
    par.wait_for_hosts(parallel, name)
    slim = oto_jax.shrink_zigs(zigs, pruned.plan)
    return Cut(pruned.model, slim, oto_jax.shrink(state, pruned.plan), name)


def replay(
    run: RunFolder, model: Any, zigs: oto_jax.ZIGs, names: Sequence[str]
) -> tuple[Any, oto_jax.ZIGs]:
    """A model and its groups after the cuts of those names.

    The groups follow the plans: a new search would not see a space of which one unit is left.
    """
    for pruned in _cuts(run, model, names):
        model, zigs = pruned.model, oto_jax.shrink_zigs(zigs, pruned.plan)
    return model, zigs


def from_the_start(
    run: RunFolder, model: Any, names: Sequence[str], pruned: oto_jax.Pruned
) -> oto_jax.Pruned:
    """A slim model as pruned at once from the model that the run began with, so it loads into that.

    Args:
      run: where the cuts are written down.
      model: the model that the run began with.
      names: of the cuts made while it trained.
      pruned: the last cut.
    """
    plans = [earlier.plan for earlier in _cuts(run, model, names)]
    plan = functools.reduce(oto_jax.compose_plans, [*plans, pruned.plan])
    return dataclasses.replace(pruned, plan=plan)


def _cuts(run: RunFolder, model: Any, names: Sequence[str]) -> Iterator[oto_jax.Pruned]:
    """What each of the cuts left, in order."""
    for name in names:
        pruned = oto_jax.load(run.path / name, model)
        model = pruned.model
        yield pruned
