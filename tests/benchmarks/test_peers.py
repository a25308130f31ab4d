"""The comparisons with other libraries: the same networks there, and a reason where absent."""

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
from benchmarks.torch_pruning_cifar10 import Config, request
from experiments.data.folders import data_folder
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
