"""The training loop: batches in, a trained sparse network out, interrupted or not.

The loop knows neither model nor data; both come in a `Task`. The data's position is the step: the
batches are a pure function of the seed and the step, so a checkpoint that holds the step
holds the position, and a run that was killed repeats exactly what it lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

import oto_jax
from experiments.errors import DivergedError
from experiments.results import start_of_run
from experiments.training import parallel as par
from experiments.training import run_folder
from experiments.training.metrics import MetricWriter, Throughput, progress_bar
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.run_folder import RunFolder
from experiments.training.shrinking import cut, replay
from experiments.training.sparsity import sparsity_row
from experiments.training.state import (
    TrainState,
    abstract_state,
    create_state,
    variables_of,
)
from experiments.training.stopping import StopRequest
from experiments.training.task import Network, Task, abstract_variables, find_zigs, make_network

IN_FLIGHT = 2
"""Dispatches that may wait for the devices: enough to keep them busy, few enough to stop soon."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint holds besides the training state.

    Attributes:
      cuts: see `Network`.
      sums: sums of the metrics since the last line, by name.
      counted: number of steps in the sums.
      minutes: training time so far, but for what a kill made to be done again.
      starts: see `experiments.results.start_of_run`, one each time the run was started.
    """

    cuts: tuple[str, ...] = ()
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    counted: int = 0
    minutes: float = 0.0
    starts: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train` leaves behind.

    Attributes:
      network: the network, narrower than the task's if it was cut.
      state: its training state, one copy on one device.
      stopped: why the run left before its last step, or None.
      minutes: training time in all, but for what a kill made to be done again.
      starts: where the run was started and gone on with: step, commit, devices, XLA's flags.
    """

    network: Network
    state: TrainState
    stopped: str | None
    minutes: float
    starts: tuple[Mapping[str, Any], ...]

    def stopped_message(self, task: Task) -> str:
        """What to tell the user about a run that has not ended."""
        return (
            f"Stopped ({self.stopped}) at step {int(self.state.step)} of {task.steps};\n"
            "the same command goes on from there."
        )


def train(task: Task, options: RunOptions, parallel: Parallel, run: RunFolder) -> Trained:
    """Trains, from the newest checkpoint or from the start, to the last step or a request to stop.

    Args:
      task: what is trained.
      options: how.
      parallel: on which devices.
      run: the run's folder, opened.
    """
    session = _begin(task, options, parallel, run)
    with StopRequest(options.max_minutes) as stop:
        stopped = _loop(session, stop)
    run_folder.finish_saving(run)
    one = par.unreplicate(parallel, session.state)
    return Trained(session.network, one, stopped, _minutes(session), session.progress.starts)


@dataclasses.dataclass
class _Session:
    """What changes while `train` runs."""

    task: Task
    options: RunOptions
    parallel: Parallel
    run: RunFolder
    full: oto_jax.ZIGs
    network: Network
    state: Any
    step: int
    progress: Progress
    saved: int | None
    pending: list[Any] = dataclasses.field(default_factory=list)
    started: float = dataclasses.field(default_factory=time.monotonic)


def _begin(task: Task, options: RunOptions, parallel: Parallel, run: RunFolder) -> _Session:
    full = find_zigs(task, task.model)
    saved = run_folder.last_step(run)
    if saved is None:
        network = make_network(task, options, parallel, task.model, full)
        state = jax.jit(create_state, static_argnums=1)(task.variables(options.seed), network.tx)
        progress = Progress()
    else:
        network, state, progress = restore(task, options, parallel, run, saved)
    if saved != task.steps:
        starts = (*progress.starts, start_of_run(saved or 0))
        progress = dataclasses.replace(progress, starts=starts)
    return _Session(
        task=task,
        options=options,
        parallel=parallel,
        run=run,
        full=full,
        network=network,
        state=par.replicate(parallel, state),
        step=saved or 0,
        progress=progress,
        saved=saved,
    )


def restore(
    task: Task,
    options: RunOptions,
    parallel: Parallel,
    run: RunFolder,
    step: int | None = None,
) -> tuple[Network, TrainState, Progress]:
    """The network and training state of a checkpoint.

    Args:
      task: what is trained.
      options: how.
      parallel: the devices.
      run: the run's folder.
      step: which checkpoint; None: the newest.

    Returns:
      The network, its state in NumPy arrays, and the rest of the checkpoint.

    Raises:
      MissingDataError: if there is no such checkpoint.
      CheckpointMismatchError: if it is of another model or optimizer.
    """
    step = run_folder.existing_step(run, step)
    note = run_folder.read_note(run, step)
    cuts, starts = tuple(note["cuts"]), tuple(note.get("starts", ()))
    progress = Progress(**{**note, "cuts": cuts, "starts": starts})
    model, zigs = replay(run, task.model, find_zigs(task, task.model), cuts)
    network = make_network(task, options, parallel, model, zigs, cuts)
    shapes = abstract_variables(task, network.model)
    like = abstract_state(shapes, network.tx)
    return network, run_folder.read_state(run, step, like), progress


def _loop(session: _Session, stop: StopRequest) -> str | None:
    task, options = session.task, session.options
    writer = MetricWriter(session.run.path, session.step)
    clock = Throughput(task.batch_size, session.step)
    dispatches = par.ahead(_dispatches(session), 2)
    with contextlib.closing(writer), progress_bar(task.steps, session.step) as bar:
        while session.step < task.steps:
            before, (count, batches) = session.step, next(dispatches)
            session.state, metrics = session.network.steps(session.state, batches)
            session.pending.append(metrics)
            if len(session.pending) > IN_FLIGHT:
                jax.block_until_ready(session.pending[-1 - IN_FLIGHT])
            session.step += count
            bar.update(count)
            if _passed(before, session.step, options.log_every, task.steps):
                row = _log(session, writer)
                writer.write_timing(session.step, clock.since(session.step))
                bar.set_postfix(loss=f"{row['loss']:.3f}", zero=f"{100 * row['sparsity']:.1f}%")
            if _end_of_epoch(session, writer):
                clock = Throughput(task.batch_size, session.step)
            if _passed(before, session.step, options.checkpoint_every, task.steps):
                _save(session)
            if reason := _reason_to_stop(session, stop, before):
                _save(session)
                return reason
    return None


def _dispatches(session: _Session) -> Iterator[tuple[int, Any]]:
    """The batches of each dispatch, on the devices. Where dispatches end depends on the step alone,
    so that an interrupted run takes the same ones."""
    task, step = session.task, session.step
    batches = task.batches(step)
    while step < task.steps:
        size = session.options.steps_per_call
        epoch_end = (step // task.steps_per_epoch + 1) * task.steps_per_epoch
        count = min((step // size + 1) * size, epoch_end, task.steps) - step
        taken = list(itertools.islice(batches, count))
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *taken)
        yield count, par.shard_steps(session.parallel, stacked)
        step += count


def _passed(before: int, after: int, every: int, last: int) -> bool:
    return before // every < after // every or after == last


def _end_of_epoch(session: _Session, writer: MetricWriter) -> bool:
    """Cuts and evaluates where an epoch's end asks for it; whether that took time."""
    task, options = session.task, session.options
    epoch, rest = divmod(session.step, task.steps_per_epoch)
    last = session.step == task.steps
    shrinks = _due(epoch, rest, options.shrink_every) and not last
    evaluates = _due(epoch, rest, options.evaluate_every) or last
    if shrinks:
        _shrink(session)
    if evaluates:
        scores = task.evaluate(session.network.model, variables_of(session.state))
        writer.write(session.step, {f"test/{name}": value for name, value in scores.items()})
    return shrinks or evaluates


def _due(epoch: int, rest: int, every: int) -> bool:
    return rest == 0 and every > 0 and epoch % every == 0


def _shrink(session: _Session) -> None:
    one = par.unreplicate(session.parallel, session.state)
    network = session.network
    narrower = cut(session.run, session.parallel, network.model, network.zigs, one)
    if narrower is None:
        return
    names = (*network.cuts, narrower.name)
    session.network = make_network(
        session.task, session.options, session.parallel, narrower.model, narrower.zigs, names
    )
    jax.clear_caches()  # For pmap keeps the wider network's programs as long as the process lives.
    session.state = par.replicate(session.parallel, narrower.state)


def _add_up(session: _Session) -> None:
    """Adds the metrics of the steps since to the sums, in the order of the steps.

    Raises:
      DivergedError: if one of their losses is not finite; nothing of it has been saved.
    """
    sums = dict(session.progress.sums)
    counted = session.progress.counted
    for found in jax.device_get(session.pending):
        counted += len(next(iter(found.values())))
        if not np.all(np.isfinite(found["loss"])):
            raise DivergedError(
                f"the loss is {found['loss'][~np.isfinite(found['loss'])][0]} by step"
                f" {session.step}: lower --learning-rate, and give the run another --name"
            )
        for name, values in found.items():
            for value in values:
                sums[name] = sums.get(name, 0.0) + float(value)
    session.pending.clear()
    session.progress = dataclasses.replace(session.progress, sums=sums, counted=counted)


def _log(session: _Session, writer: MetricWriter) -> dict[str, float]:
    _add_up(session)
    progress = session.progress
    row = {name: total / progress.counted for name, total in progress.sums.items()}
    params = par.unreplicate(session.parallel, session.state.params)
    found = session.network.sparsity(params)
    row |= sparsity_row(session.full, session.network.zigs, found)
    writer.write(session.step, row)
    session.progress = dataclasses.replace(progress, sums={}, counted=0)
    return row


def _save(session: _Session) -> None:
    if session.saved == session.step:
        return
    _add_up(session)
    note = dataclasses.replace(
        session.progress, cuts=session.network.cuts, minutes=_minutes(session)
    )
    one = par.unreplicate(session.parallel, session.state)
    run_folder.save(session.run, one, dataclasses.asdict(note))
    session.saved = session.step


def _minutes(session: _Session) -> float:
    return session.progress.minutes + (time.monotonic() - session.started) / 60


def _reason_to_stop(session: _Session, stop: StopRequest, before: int) -> str | None:
    options, step = session.options, session.step
    if step == session.task.steps:
        return None
    if options.stop_after is not None and step >= options.stop_after:
        return "--stop-after"
    # Hosts have to agree, which costs a message between them; one host decides at every step.
    if jax.process_count() == 1 or _passed(before, step, options.log_every, session.task.steps):
        return stop.agreed()
    return None
