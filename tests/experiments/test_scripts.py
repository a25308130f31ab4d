"""Every script from its command line to its result file, on real data."""

import json
import os
import re
import subprocess
import sys

import pytest

from experiments.training.metrics import read_metrics

TRAINING = [
    "vgg16_cifar10",
    "vgg16_bn_cifar10",
    "resnet50_cifar10",
    "resnet50_imagenet",
    "resnet_cifar10",
]


def run(root, script, *arguments):
    command = [sys.executable, f"experiments/{script}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ})


def last_line(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINING)
def test_smoke_runs_the_whole_path(root, shared_data, tmp_path, script):
    done = run(root, script, "--smoke", "--workdir", tmp_path)
    figures = last_line(done)
    if script == "resnet50_imagenet":
        assert re.search(r"Input: \d+ images of 64 x 64 per second and core", done.stdout)
    rows = [row for row in read_metrics(tmp_path) if "sparsity" in row]
    assert rows[-1]["sparsity"] > rows[0]["sparsity"]
    # From trained weights the loss falls once the groups that had to go are gone.
    start = max(row["loss"] for row in rows) if script == "resnet_cifar10" else rows[0]["loss"]
    assert rows[-1]["loss"] < start
    assert figures["macs"]["kept"] < 0.9
    assert figures["worst_relative_difference"] < 1e-5
    assert figures["slim_test"]["top1"] == figures["test"]["top1"]
    for name in ("result.json", "config.json", "timing.jsonl", "slim", "tensorboard"):
        assert (tmp_path / name).exists()
    out = tmp_path / "pruned again"
    again = last_line(run(root, "prune", "--workdir", tmp_path, "--out", out))
    for name in ("slim_test", "macs", "parameters", "groups"):
        assert again[name] == figures[name]
    assert out.is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "top1"), [(20, 91.73), (32, 92.63), (44, 93.10), (56, 93.39)])
def test_published_weights_reach_their_published_accuracy(root, shared_data, depth, top1):
    scores = last_line(run(root, "resnet_cifar10", "--eval-only", "--depth", depth))
    assert scores["examples"] == 10_000
    assert scores["top1"] == pytest.approx(top1, abs=0.005)


def test_the_published_resnet20_classifies(root, shared_data):
    """The slow test above sees all four networks and all 10,000 images."""
    done = run(root, "resnet_cifar10", "--eval-only", "--test-images", 500)
    scores = last_line(done)
    assert scores["examples"] == 500
    assert 88 < scores["top1"] < 95


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("resnet_cifar10", ("--eval-only", "--checkpoint", "nowhere.npz"), "nowhere.npz"),
        ("vgg16_cifar10", ("--data-dir", "nowhere"), "MissingDataError: CIFAR-10 was not found"),
        ("prune", ("--workdir", "nowhere"), "holds no run"),
        ("resnet50_imagenet", ("--compile-only", "v0:1x1"), "CompileOnlyError: no compiler for"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(root, script, arguments, message):
    done = run(root, script, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
