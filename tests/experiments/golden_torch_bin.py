"""Writes ``golden_torch_*.bin``: one small state dictionary in both of PyTorch's file formats.

Needs torch, which the tests do not: ``python tests/experiments/golden_torch_bin.py``. It has every
way in which a tensor can lie in its storage, and the types that checkpoints use; ``expected()``
says what is in it.
"""

import collections
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
ZIP, LEGACY = FOLDER / "golden_torch_zip.bin", FOLDER / "golden_torch_legacy.bin"


def expected() -> dict[str, np.ndarray]:
    """What the files hold."""
    grid = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    return {
        "plain": grid,
        "transposed": grid.T,
        "part": grid[1:, ::2],
        "parameter": grid + 1,
        "half": grid.astype(np.float16),
        "bfloat16": grid,
        "long": np.array([[-1, 2**40]]),
        "scalar": np.float64(0.1),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
    }


def main() -> None:
    """Writes the files."""
    import torch

    values = {name: torch.from_numpy(np.array(array)) for name, array in expected().items()}
    grid = values["plain"]
    values |= {"transposed": grid.T, "part": grid[1:, ::2]}
    values["parameter"] = torch.nn.Parameter(grid + 1)
    values["bfloat16"] = grid.to(torch.bfloat16)
    state = collections.OrderedDict(values)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]  # As module.state_dict() leaves it.
    for file, new in ((ZIP, True), (LEGACY, False)):
        torch.save(state, file, _use_new_zipfile_serialization=new)


if __name__ == "__main__":
    main()
