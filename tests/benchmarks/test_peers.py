"""The comparisons with other libraries: the like networks there, and a reason where absent."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import discovery
from benchmarks.peers.environment import (
    ROOT,
    VARIABLE,
    PeersMissingError,
    conversation,
    interpreter,
)
from benchmarks.torch_pruning_cifar10 import Config, main, request, settings_of
from experiments.data.folders import data_folder
from experiments.errors import CheckpointMismatchError, RunInUseError
from experiments.training.run_folder import open_run
from oto_jax.models.checkpoints import load_cifar_resnet

TORCH = """
import json, sys
import numpy as np, torch
from pathlib import Path
from benchmarks.peers.cifar_resnet import count_macs, count_parameters, load
from benchmarks.peers.group_pruner import Config, cut

settings = json.loads(sys.argv[1])
config = Config(**settings)
model = load(config.depth, Path(config.checkpoint)).eval()
images = torch.from_numpy(np.load(Path(config.folder) / "images.npy"))
with torch.no_grad():
    np.save(Path(config.folder) / "logits.npy", model(images).numpy())
full = {"macs": count_macs(model), "parameters": count_parameters(model)}
slim = cut(model, config)
print(json.dumps({"full": full, "slim": slim}))
"""


def peers_python():
    try:
        return interpreter()
    except PeersMissingError as error:
        pytest.skip(str(error))


def test_without_their_environment_the_peers_are_skipped_with_the_way_to_get_them(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/nowhere/python")
    assert "make peers" in discovery.with_peers(rounds=1)["skipped"]


def test_an_environment_without_torch_says_so(monkeypatch):
    monkeypatch.setenv(VARIABLE, sys.executable)
    reason = "No module named 'torch'"
    with pytest.raises(PeersMissingError, match=reason), conversation("discover.py"):
        pass


def test_a_folder_in_use_or_of_another_run_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, sys.executable)
    config = Config(checkpoint=tmp_path / "resnet20.npz", workdir=tmp_path / "run")
    asked = request(config, tmp_path / "run")
    with open_run(tmp_path / "run", settings_of(asked)), pytest.raises(RunInUseError, match="run"):
        main(config)
    with pytest.raises(CheckpointMismatchError, match="epochs: 10 -> 12"):
        main(dataclasses.replace(config, epochs=12))
    with pytest.raises(SystemExit, match="the other side"):  # which has no torch here
        main(config)


KEEP = """
import sys
from pathlib import Path
from types import SimpleNamespace
from benchmarks.peers.group_pruner import held, keep

folder = Path(sys.argv[1])
with held(folder):
    keep({"epoch": 1}, SimpleNamespace(folder=folder))
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_one_process_alone_keeps_its_state_in_a_folder(tmp_path):
    command = [str(peers_python()), "-W", "ignore", "-c", KEEP, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "still training" in second.stderr
        first.communicate()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.lock", "state.pt"]


@pytest.mark.slow
def test_all_peers_answer():
    peers_python()
    with conversation("discover.py") as (greeting, ask):
        answers = [ask(f"{peer}\tVGG16-BN") for peer in discovery.PEERS]
    assert greeting["versions"]["torch-pruning"]
    assert all(answer["seconds"] > 0 for answer in answers)


@pytest.mark.slow
def test_the_network_over_there_is_the_same_and_is_cut_to_the_target(tmp_path):
    python = peers_python()
    if not (data_folder() / "resnet_cifar10").exists():
        pytest.skip("the published CIFAR ResNets are not here")
    settings = request(Config(depth=20, target_macs=0.5), tmp_path)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images.transpose(0, 3, 1, 2))
    command = [str(python), "-W", "ignore", "-c", TORCH, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    sizes = json.loads(done.stdout.splitlines()[-1])
    assert sizes["full"] == {"macs": 40_551_040, "parameters": 269_722}
    assert 0.47 < sizes["slim"]["macs"] / sizes["full"]["macs"] <= 0.5
    model, variables = load_cifar_resnet(settings["checkpoint"])
    ours = np.asarray(jax.jit(model.apply)(variables, images))
    assert np.load(tmp_path / "logits.npy") == pytest.approx(ours, abs=1e-3)
