"""The library works where nothing but its core dependencies is installed."""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]
CORE = ("jax", "jaxlib", "flax", "optax", "numpy")

HIDE = """
import json, sys

class Hidden:
    hidden = set(json.loads(sys.argv[1]))

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.hidden:
            raise ModuleNotFoundError(f"{name} is not a core dependency", name=name)

sys.meta_path.insert(0, Hidden())
"""

USE = """
import flax.linen as nn, jax, optax, oto_jax

model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
x = jax.random.normal(jax.random.key(0), (5, 4))
variables = model.init(jax.random.key(1), x)
zigs = oto_jax.find_zigs(model, variables, x)
tx = oto_jax.hspg(0.1, zigs, lmbda=1.0, epsilon=0.9)
state = tx.init(variables["params"])
zeros = jax.tree.map(jax.numpy.zeros_like, variables["params"])
updates, state = tx.update(zeros, state, variables["params"])
params = optax.apply_updates(variables["params"], updates)
slim = oto_jax.prune(model, {"params": params}, zigs)
oto_jax.save(sys.argv[2], slim)
again = oto_jax.load(sys.argv[2], model)
print(oto_jax.certify((model, {"params": params}), again, x).relative)
"""


def needed(package: str, found: set[str]) -> set[str]:
    """A package and all that it requires, by the names registries use."""
    name = re.sub(r"[-_.]+", "-", package).lower()
    if name in found:
        return found
    found.add(name)
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)
    return found


def modules_beyond_core() -> list[str]:
    """Installed top-level modules that the core dependencies do not bring."""
    core: set[str] = set()
    for package in CORE:
        needed(package, core)
    return [
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if module not in ("oto_jax", "experiments")
        and not {re.sub(r"[-_.]+", "-", package).lower() for package in packages} & core
    ]


def test_import_and_use_need_the_core_dependencies_alone(tmp_path):
    hidden = modules_beyond_core()
    assert {"sklearn", "matplotlib", "pytest"} <= set(hidden)
    assert not {"jax", "flax", "orbax", "tensorstore"} & set(hidden)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE + USE, json.dumps(hidden), tmp_path / "slim"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6
