"""A run's folder: one process at a time, one configuration, checkpoints that survive."""

import json
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.errors import (
    CheckpointMismatchError,
    DiskFullError,
    MissingDataError,
    OptionError,
    RunInUseError,
)
from experiments.training import run_folder
from experiments.training.metrics import MetricWriter, read_metrics
from experiments.training.script import run_script
from experiments.training.state import create_state

CONFIG = {"script": "test", "recipe": {"lmbda": 1e-3}, "run": {"seed": 0}}


def state_of(size, step=3):
    state = create_state({"params": {"w": jnp.arange(float(size))}}, optax.sgd(0.1, momentum=0.9))
    return type(state)(jnp.int32(step), state.params, state.model_state, state.opt_state)


def test_a_checkpoint_comes_back_whole(tmp_path):
    state = state_of(10)
    with run_folder.open_run(tmp_path, CONFIG) as run:
        assert run_folder.last_step(run) is None
        run_folder.save(run, state, {"minutes": 0.1})
        run_folder.finish_saving(run)
    with run_folder.open_run(tmp_path, CONFIG) as run:
        assert run_folder.last_step(run) == 3
        assert run_folder.read_note(run, 3) == {"minutes": 0.1}
        again = run_folder.read_state(run, 3, state)
    np.testing.assert_array_equal(again.params["w"], state.params["w"])
    assert int(again.step) == 3


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        run_folder.open_run(tmp_path, CONFIG),
        pytest.raises(RunInUseError, match="--workdir"),
        run_folder.open_run(tmp_path, CONFIG),
    ):
        pass
    with run_folder.open_run(tmp_path, CONFIG):
        pass


def test_another_configuration_is_refused(tmp_path):
    with run_folder.open_run(tmp_path, CONFIG):
        pass
    other = {**CONFIG, "recipe": {"lmbda": 1e-2}}
    with (
        pytest.raises(CheckpointMismatchError, match=r"lmbda: 0\.001 -> 0\.01"),
        run_folder.open_run(tmp_path, other),
    ):
        pass


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with run_folder.open_run(tmp_path, CONFIG) as run:
        run_folder.save(run, state_of(10), {})
        run_folder.finish_saving(run)
        with pytest.raises(CheckpointMismatchError, match="step 3"):
            run_folder.read_state(run, 3, state_of(11))


def test_a_missing_checkpoint_is_named(tmp_path):
    with (
        run_folder.open_run(tmp_path, CONFIG) as run,
        pytest.raises(MissingDataError, match="of step 7"),
    ):
        run_folder.existing_step(run, 7)
    with pytest.raises(MissingDataError, match=r"config\.json"):
        run_folder.read_config(tmp_path / "nothing")


FILL = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from experiments.errors import DiskFullError
from experiments.training import run_folder
from tests.experiments.test_run_folder import CONFIG, state_of
with run_folder.open_run(Path({folder!r}), CONFIG) as run:
    run_folder.save(run, state_of(1000), {{}})
    run_folder.finish_saving(run)
    try:
        run_folder.save(run, state_of(200_000, step=4), {{}})
        run_folder.finish_saving(run)
    except DiskFullError:
        print("DiskFullError")
with run_folder.open_run(Path({folder!r}), CONFIG) as run:
    state = run_folder.read_state(run, 3, state_of(1000))
    print(run_folder.last_step(run), state.params["w"].sum())
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield small
    subprocess.run(["umount", str(small)], check=True)


def test_a_full_disk_is_named_and_harms_no_checkpoint(small_disk, root):
    program = FILL.format(root=str(root), folder=str(small_disk / "run"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["DiskFullError", "3", "499500.0"], done.stderr[-3000:]


def write_metrics_until_the_disk_is_full(folder):
    writer = MetricWriter(folder, first_step=0)
    try:
        for step in range(100_000):
            writer.write(step, {"loss": 1.0})
    finally:
        writer.close()


def test_a_disk_that_fills_up_with_metrics_is_one_line(small_disk):
    """No matter where: in JSON lines or TensorBoard's file, and without waiting for ever."""
    with pytest.raises(SystemExit, match="DiskFullError: the disk of"):
        run_script(lambda: write_metrics_until_the_disk_is_full(small_disk))


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "run").write_text("no folder")
    with (
        pytest.raises(OptionError, match=r"File exists.*--workdir"),
        run_folder.open_run(tmp_path / "run", CONFIG),
    ):
        pass


def read_both(run, state):
    run_folder.read_note(run, 3)
    run_folder.read_state(run, 3, state)


@pytest.mark.parametrize("part", ["state", "note"])
def test_a_damaged_checkpoint_is_named(tmp_path, part):
    state = state_of(1000)
    with run_folder.open_run(tmp_path, CONFIG) as run:
        run_folder.save(run, state, {"minutes": 0.1})
        run_folder.finish_saving(run)
    for file in (tmp_path / "checkpoints" / "00000003" / part).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with (
        run_folder.open_run(tmp_path, CONFIG) as run,
        pytest.raises(CheckpointMismatchError, match=r"step 3 .* damaged"),
    ):
        read_both(run, state)


def test_no_room_is_seen_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFullError, match="untouched"):
        run_folder.check_room(tmp_path, free * 2)


def test_metrics_after_the_checkpoint_are_dropped_and_cut_lines_too(tmp_path):
    rows = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, '{"step": 4, "lo']))
    writer = MetricWriter(tmp_path, first_step=2)
    writer.write(3, {"loss": 0.5})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    assert read_metrics(tmp_path)[-1]["loss"] == 0.5
    assert list((tmp_path / "tensorboard").iterdir())
