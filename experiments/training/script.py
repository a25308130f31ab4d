"""What every training script does between its configuration and its result file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import jax
import tyro

import oto_jax
from experiments.data.folders import ROOT
from experiments.errors import ExperimentError
from experiments.results import commit
from experiments.training import parallel as par
from experiments.training.finish import finish
from experiments.training.loop import train
from experiments.training.options import RunOptions, to_json
from experiments.training.parallel import Parallel
from experiments.training.run_folder import disk_full, is_disk_full, open_run
from experiments.training.task import Task


class HasRun(Protocol):
    """A configuration with the options of a run."""

    @property
    def run(self) -> RunOptions:
        """The options."""


Config = TypeVar("Config", bound=HasRun)


def start(run: RunOptions) -> Parallel:
    """Joins the other hosts, if there are any, and gathers the devices."""
    commit()  # Remembered from here on, whatever happens to the code while the run goes on.
    par.connect(run.coordinator, run.processes, run.process)
    return par.data_parallel(run.parallel)


def run_training(
    name: str, config: Config, make_task: Callable[[Config, Parallel], Task]
) -> dict[str, Any] | None:
    """Trains (or goes on training), prunes, compares, saves.

    Args:
      name: the script's name, and the run's unless it has another.
      config: the configuration.
      make_task: from the configuration and the devices to what is trained.

    Returns:
      The figures of the result file, or None where the run stopped before its end.
    """
    parallel = start(config.run)
    task = make_task(config, parallel)
    workdir = run_folder_of(name, config)
    record = {"script": name, **to_json(config)}
    with open_run(workdir, record) as run:
        trained = train(task, config.run, parallel, run)
        if trained.stopped:
            print(trained.stopped_message(task))
            return None
        results = result_file(name, config)
        figures = finish(task, trained, parallel, run, record, results)
    if jax.process_index() == 0:
        print(f"Slim model: {workdir / 'slim'}\nResults: {results}")
        print(json.dumps({k: v for k, v in figures.items() if k != "config"}))
    return figures


def run_folder_of(script: str, config: HasRun) -> Path:
    """``runs/NAME``, or where the user wants it."""
    name = config.run.name or (f"{script}-smoke" if config.run.smoke else script)
    return config.run.workdir or ROOT / "runs" / name


def result_file(script: str, config: HasRun) -> Path:
    """``results/NAME.json``; for a run that shows no real result, a file in its own folder."""
    if config.run.smoke:
        return run_folder_of(script, config) / "result.json"
    return ROOT / "results" / f"{config.run.name or script}.json"


def parse(full: Config, smoke: Config, description: str | None = None) -> Config:
    """The configuration from the command line; ``--smoke`` starts from other defaults.

    Unknown options end the program with the nearest known ones.

    Args:
      full: the defaults.
      smoke: the defaults with ``--smoke``.
      description: what ``--help`` says first; default: the configuration's docstring.
    """
    default = smoke if "--smoke" in sys.argv[1:] else full
    return tyro.cli(
        type(full),
        description=description,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def run_script(main: Callable[[], Any]) -> None:
    """Runs ``main``; a named error becomes one line instead of a traceback."""
    try:
        main()
    except (ExperimentError, oto_jax.OTOError) as error:
        leave(error)
    except Exception as error:  # Whatever was being written: metrics, TensorBoard, the slim model.
        if not is_disk_full(error):
            raise
        leave(disk_full(getattr(error, "filename", None) or "the run"))


def leave(error: Exception) -> NoReturn:
    """Ends the program with a named error's message."""
    raise SystemExit(f"{type(error).__name__}: {error}") from None
