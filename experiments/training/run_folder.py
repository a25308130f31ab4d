"""The folder of a run: one process at a time, one configuration, checkpoints that survive.

``config.json``, ``checkpoints/``, ``metrics.jsonl``, ``timing.jsonl``, ``tensorboard/``. A
checkpoint is written beside the others and renamed when it is whole, so a run that is killed, or
a disk that fills up, never harms the last good one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.errors import (
    CheckpointMismatchError,
    DiskFullError,
    MissingDataError,
    OptionError,
    RunInUseError,
)
from experiments.results import format_json, read_results, write_whole
from experiments.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """An opened run folder, held by this process alone.

    Attributes:
      path: the folder.
      manager: Orbax's keeper of the checkpoints.
    """

    path: Path
    manager: ocp.CheckpointManager


@contextlib.contextmanager
def open_run(path: Path, config: Mapping[str, Any], keep: int = 2) -> Iterator[RunFolder]:
    """Opens a run folder, new or to be gone on with.

    Args:
      path: the folder; created where it is missing.
      config: everything that decides what the run computes, as JSON values; see
        `experiments.training.options.to_json`.
      keep: how many checkpoints to keep.

    Raises:
      OptionError: if it cannot be a folder.
      RunInUseError: if another process has it open.
      CheckpointMismatchError: if it holds a run of another configuration.
    """
    path = path.absolute()
    _make_folder(path)
    with _locked(path):
        _claim(path, config)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, step_format_fixed_length=8, cleanup_tmp_directories=True
        )
        with ocp.CheckpointManager(path / "checkpoints", options=options) as manager:
            yield RunFolder(path, manager)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise OptionError(
            f"{path} cannot be a run's folder ({error.strerror}); choose another with --workdir"
        ) from error


@contextlib.contextmanager
def read_run(path: Path) -> Iterator[RunFolder]:
    """Opens a run folder for reading alone; the run itself may go on meanwhile."""
    options = ocp.CheckpointManagerOptions(step_format_fixed_length=8, read_only=True)
    with ocp.CheckpointManager(path.absolute() / "checkpoints", options=options) as manager:
        yield RunFolder(path.absolute(), manager)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    if jax.process_index() != 0:  # The hosts of one run share the folder; the first one guards it.
        yield
        return
    with (path / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(
                f"another process is training in {path}; wait for it, end it, or choose another"
                " folder with --workdir"
            ) from None
        yield


def _claim(path: Path, config: Mapping[str, Any]) -> None:
    file = path / "config.json"
    if file.exists():
        theirs, mine = _flat(read_config(path)), _flat(config)
        differing = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
        if differing:
            changes = ", ".join(f"{k}: {theirs.get(k)!r} -> {mine.get(k)!r}" for k in differing)
            raise CheckpointMismatchError(
                f"{path} holds a run of another configuration ({changes}); give the same options"
                " to go on with it, or another folder with --workdir"
            )
    elif jax.process_index() == 0:
        write_whole(file, format_json(config) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises:
      MissingDataError: if the folder holds no run.
    """
    file = path / "config.json"
    if not file.exists():
        raise MissingDataError(f"{path} holds no run: it has no config.json")
    return read_results(file)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values by option: nested groups of options are told apart by name alone, as in commands."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(config)).items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


def save(run: RunFolder, state: TrainState, note: Mapping[str, Any]) -> None:
    """Starts to write a checkpoint and returns; the writing goes on in the background.

    Args:
      run: where.
      state: one copy of the training state.
      note: whatever else resuming needs, as JSON values.

    Raises:
      DiskFullError: if it does not fit on the disk, or the one before did not.
    """
    arrays = jax.tree.map(np.asarray, _as_dict(state))
    check_room(run.path, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), note=ocp.args.JsonSave(dict(note))
    )
    with _disk_errors(run.path):
        run.manager.save(int(arrays["step"]), args=items)


def finish_saving(run: RunFolder) -> None:
    """Waits until the checkpoint that is being written is whole.

    Raises:
      DiskFullError: if the disk filled up meanwhile.
    """
    with _disk_errors(run.path):
        run.manager.wait_until_finished()


def last_step(run: RunFolder) -> int | None:
    """The step of the newest whole checkpoint, or None."""
    return run.manager.latest_step()


def existing_step(run: RunFolder, step: int | None) -> int:
    """The step of a checkpoint, by default of the newest.

    Raises:
      MissingDataError: if there is no such checkpoint.
    """
    steps = run.manager.all_steps()
    wanted = max(steps, default=None) if step is None else step
    if wanted is None or wanted not in steps:
        raise MissingDataError(
            f"{run.path} holds checkpoints of the steps {sorted(steps)}"
            + ("" if step is None else f", none of step {step}")
        )
    return wanted


def read_note(run: RunFolder, step: int) -> dict[str, Any]:
    """The note of a checkpoint.

    Raises:
      CheckpointMismatchError: if it is damaged.
    """
    with _mismatches(run, step):
        restored = run.manager.restore(step, args=ocp.args.Composite(note=ocp.args.JsonRestore()))
    return dict(restored["note"])


def read_state(run: RunFolder, step: int, like: TrainState) -> TrainState:
    """The training state of a checkpoint, as NumPy arrays.

    Args:
      run: where.
      step: which.
      like: a state of the same structure, arrays or their shapes.

    Raises:
      CheckpointMismatchError: if the checkpoint is of another structure.
    """
    wanted = _as_dict(like)
    shapes = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), wanted)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
    with _mismatches(run, step):
        restored = run.manager.restore(step, args=items)["state"]
        _check_same(restored, wanted)
    return TrainState(**restored)


@contextlib.contextmanager
def _mismatches(run: RunFolder, step: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        older = sorted(run.manager.all_steps())[:-1]
        raise CheckpointMismatchError(
            f"the checkpoint of step {step} in {run.path} is not of this model and optimizer, or"
            f" is damaged: {error}. Older ones: {older}; without the folder of this one, the same"
            " command goes on from them"
        ) from error


def _check_same(found: Any, wanted: Any) -> None:
    """Orbax returns arrays as they were saved, whatever shape was asked for."""
    described = (
        {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (found, wanted))
    )
    ours, theirs = described
    for path in sorted({*ours, *theirs}):
        if ours.get(path) != theirs.get(path):
            raise ValueError(f"{path} is {ours.get(path)}, not {theirs.get(path)}")


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}


def check_room(path: Path, size: int) -> None:
    """Checks that so many bytes fit on a folder's disk.

    Raises:
      DiskFullError: if they do not.
    """
    free = shutil.disk_usage(path).free
    if free < size:
        raise DiskFullError(
            f"a checkpoint needs {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free in {path};"
            " make room and run the same command again (the last good checkpoint is untouched)",
        )


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(path) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error is the system's word that no more can be written.

    TensorStore reports it as a ValueError whose text holds the system's message.
    """
    messages = (os.strerror(code).lower() for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    return any(message in str(error).lower() for message in messages)


def disk_full(path: Path | str) -> DiskFullError:
    """The error that says so, and what to do."""
    return DiskFullError(
        f"the disk of {path} filled up, or its quota; make room and run the same command again"
        " (the last good checkpoint is untouched)"
    )
