"""``bert_squad.py`` from the command line: the whole path, interrupted or not."""

import json
import random
from pathlib import Path

import pytest

from experiments.training.metrics import read_metrics
from tests.experiments.processes import kill, launch, outcome, wait_for_step

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
SCRIPT = EXPERIMENTS / "bert_squad.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def start(folder, cache, *options):
    return launch("--smoke", "--workdir", folder, *options, cache=cache, script=SCRIPT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache, shared_data):
    """An uninterrupted run: its folder and its last line."""
    folder = tmp_path_factory.mktemp("whole")
    printed = outcome(start(folder, cache))
    return folder, json.loads(printed.splitlines()[-1])


@pytest.mark.slow
def test_the_smoke_run_shows_the_whole_path(whole):
    folder, figures = whole
    rows = [row for row in read_metrics(folder) if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[0]["sparsity"] == 0 < rows[-1]["sparsity"]
    assert figures["differing_answers"] == 0
    assert figures["test"] == figures["slim_test"]
    assert figures["parameters_without_embeddings"]["kept"] < 0.9
    assert figures["worst_absolute_difference"] < 1e-4
    assert figures["export_worst_difference"] < 1e-4
    assert (folder / "predictions_full.json").read_bytes() == (
        folder / "predictions_slim.json"
    ).read_bytes()
    for name in ("nbest_slim.json", "slim.stablehlo", "slim", "result.json", "tensorboard"):
        assert (folder / name).exists(), name


@pytest.mark.slow
def test_its_predictions_can_be_scored(whole, shared_data, cache, tmp_path):
    """The written predictions go through ``--score``; unasked questions count as missing."""
    folder, figures = whole
    run = launch(
        "--score",
        folder / "predictions_slim.json",
        "--eval-file",
        shared_data / "squad" / "dev-v1.1.json.xz",
        cache=cache,
        script=SCRIPT,
    )
    found = json.loads(outcome(run).splitlines()[-1])
    asked = figures["test"]["questions"]
    assert found["missing"] == found["total"] - asked
    share = asked / found["total"]
    assert found["f1"] == pytest.approx(figures["slim_test"]["f1"] * share, rel=1e-9)


@pytest.mark.slow
def test_a_killed_run_arrives_bitwise_where_it_would_have(whole, cache, tmp_path):
    expected, _ = whole
    run = start(tmp_path, cache)
    wait_for_step(run, tmp_path, 5 * random.Random(0).randrange(1, 9))
    kill(run)
    outcome(start(tmp_path, cache))
    for name in ("metrics.jsonl", "nbest_full.json", "nbest_slim.json"):
        assert (tmp_path / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.slow
def test_a_mesh_takes_the_same_steps_as_pmap(whole, cache, tmp_path):
    expected, _ = whole
    outcome(start(tmp_path, cache, "--parallel", "mesh"))
    for found, wanted in zip(read_metrics(tmp_path), read_metrics(expected), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_prune_serves_its_checkpoints(whole, cache, tmp_path):
    folder, figures = whole
    options = ("--workdir", folder, "--out", tmp_path / "slim")
    run = launch(*options, cache=cache, script=EXPERIMENTS / "prune.py")
    found = json.loads(outcome(run).splitlines()[-1])
    assert found["groups"] == figures["groups"]
    assert found["slim_test"] == figures["slim_test"]


def test_contradictions_end_with_one_line(cache, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "empty").mkdir()
    for options, words in (
        (("--score", tmp_path / "p.json"), "OptionError: --score needs --eval-file"),
        (("--checkpoint", tmp_path / "empty"), "CheckpointFilesError"),
        (("--checkpoint", tmp_path), "BertConfigError"),
        (("--length", "66"), "windows of 66 tokens"),
    ):
        run = launch(*options, cache=cache, script=SCRIPT)
        _, errors = run.communicate(timeout=120)
        assert run.returncode in (1, 2)
        assert words in " ".join(errors.replace("│", " ").split())
        assert "Traceback" not in errors
