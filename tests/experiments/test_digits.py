"""The demo, run for real on a smaller network and for fewer epochs."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.comparison import format_table
from experiments.errors import OptionError
from experiments.handwriting.images import batches, load_images, shift
from experiments.handwriting.train import Recipe
from experiments.results import ROOT, read_results

SHORT = ["--epochs", "8", "--start-epoch", "4", "--widths", "8", "16", "--blocks", "1"]
EAGER = ["--lmbda", "0.03", "--epsilon", "0.98"]


def run_digits(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "experiments/digits.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("digits")
    places = ["--workdir", "run", "--results", "digits.json", "--picture", "digits.png"]
    places[1::2] = [str(folder / name) for name in places[1::2]]
    done = run_digits(*SHORT, *EAGER, *places)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_slim_is_smaller_and_computes_the_same(finished):
    results = read_results(finished[0] / "digits.json")
    full, slim = results["full"], results["slim"]
    assert slim["parameters"] < full["parameters"]
    assert slim["macs"] < full["macs"]
    assert slim["test_accuracy"] == full["test_accuracy"]
    assert results["worst_relative_difference"] <= 1e-5
    assert results["after_loading"]["worst_relative"] <= 1e-5
    assert results["after_loading"]["test_accuracy"] == slim["test_accuracy"]
    assert set(slim["latency_ms"]) == {"1", "256"}
    assert results["train_seconds"] > 0


def test_widths_are_what_the_zero_groups_leave(finished):
    results = read_results(finished[0] / "digits.json")
    alive = np.array(results["history"]["group_norms"][-1]) > 0
    start = 0
    for row in results["widths"]:
        units = alive[start : start + row["before"]]
        assert row["after"] == max(1, units.sum()), row["name"]
        start += row["before"]
    assert start == len(alive)


def test_no_group_is_zero_before_the_second_stage(finished):
    history = read_results(finished[0] / "digits.json")["history"]
    for epoch, norms in zip(history["epochs"], history["group_norms"], strict=True):
        assert epoch > history["stage_switch"] or min(norms) > 0
    assert min(history["group_norms"][-1]) == 0


def test_the_table_is_printed_and_the_picture_drawn(finished):
    folder, printed = finished
    assert format_table(read_results(folder / "digits.json")) in printed
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_is_drawn_again_from_the_result_file(finished, tmp_path):
    command = [sys.executable, "experiments/plots.py", str(finished[0] / "digits.json")]
    subprocess.run([*command, str(tmp_path / "again.png")], cwd=ROOT, check=True)
    assert (tmp_path / "again.png").read_bytes() == (finished[0] / "digits.png").read_bytes()


def test_a_slim_network_can_be_checked_later(finished):
    done = run_digits("--reload", str(finished[0] / "run"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["worst_relative"] <= 1e-5


def test_a_damaged_slim_network_is_named(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    (tmp_path / "run" / "slim" / "plan.json").write_text("{")
    done = run_digits("--reload", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "CheckpointError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_a_run_is_named(tmp_path):
    done = run_digits("--reload", str(tmp_path))
    assert done.returncode != 0
    assert "DamagedDataError" in done.stderr
    assert str(tmp_path) in done.stderr


def test_help_explains_every_option():
    shown = run_digits("--help").stdout
    for option in ("--epochs", "--lmbda", "--epsilon", "--seed", "--workdir"):
        assert option in shown
    assert "group lasso" in shown


@pytest.mark.parametrize(
    "make",
    [lambda: Recipe(epochs=0), lambda: Recipe(batch_size=0), lambda: load_images(1797, seed=0)],
)
def test_impossible_options_are_named(make):
    with pytest.raises(OptionError, match="--"):
        make()


def test_an_impossible_hyperparameter_is_named_before_training():
    done = run_digits("--epsilon", "1.5")
    assert done.returncode != 0
    assert "HyperparameterError" in done.stderr
    assert "epsilon" in done.stderr


def test_the_split_is_fair_and_repeats():
    first, second = load_images(540, seed=3), load_images(540, seed=3)
    assert (first.test_images == second.test_images).all()
    assert len(first.train_images) == 1257
    assert len(first.test_images) == 540
    shares = np.bincount(first.test_labels) / np.bincount(first.train_labels)
    assert shares.max() / shares.min() < 1.1
    seen = {image.tobytes() for image in first.train_images}
    assert not any(image.tobytes() in seen for image in first.test_images)


def test_an_epoch_shows_each_image_at_most_once():
    digits = load_images(540, seed=0)
    labels = np.concatenate([labels for _, labels in batches(digits, 64, seed=0, epoch=1)])
    assert len(labels) == 1257 // 64 * 64
    assert (np.bincount(labels) <= np.bincount(digits.train_labels)).all()


def test_shift_moves_by_one_pixel_at_most():
    image = jnp.zeros((1, 8, 8, 1)).at[0, 4, 4, 0].set(1)
    found = {
        tuple(int(i[0]) for i in jnp.nonzero(shift(jax.random.key(seed), image)[0, :, :, 0]))
        for seed in range(100)
    }
    assert found == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
