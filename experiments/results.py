"""Result files: the figures of a run as JSON, with all that is needed to run it again.

Every file under ``results/`` is written here, so each says its seed, command, commit, versions
and hardware. A file is written whole or not at all: a killed run leaves the one before.
"""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.errors import DamagedDataError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("oto_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# What decides a figure; a picture or a page that changed does not.
CODE = ("oto_jax", "experiments", "benchmarks", "requirements", "pyproject.toml")


def write_results(path: Path, figures: Mapping[str, Any], *, seed: int) -> None:
    """Writes figures and their provenance to a JSON file, in one stroke.

    Args:
      path: the file; folders are made as needed.
      figures: what was measured, as JSON values (NumPy and JAX numbers are taken too).
      seed: what the run's randomness came from.

    Raises:
      ValueError: if a figure is NaN or infinite, which JSON cannot hold.
    """
    write_whole(path, format_json({**figures, **provenance(seed)}) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """The content of a result file.

    Raises:
      DamagedDataError: if the file is not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DamagedDataError(
            f"{path} is not a result file ({error}); run the experiment again to write it anew"
        ) from error
    return content


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that a kill or a full disk leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def format_json(value: Any) -> str:
    """Indented JSON with lists of numbers on one line each.

    Example:
      >>> print(format_json({"latency_ms": [1, 2.5], "name": "x"}))
      {
        "latency_ms": [1, 2.5],
        "name": "x"
      }
    """
    text = json.dumps(value, indent=2, allow_nan=False, default=_plain)
    # A raw line break stands between values only, never inside a string.
    return re.sub(r"\[\n[-+\d.eE,\s]+\]", lambda match: _on_one_line(match[0]), text)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and numbers
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{value!r} cannot be written as JSON")


def _on_one_line(numbers: str) -> str:
    return "[" + ", ".join(numbers.strip("[] \n").replace(",", " ").split()) + "]"


def start_of_run(step: int) -> dict[str, Any]:
    """Under what a run starts, or goes on, at a step: what decides its figures beside its options.

    Devices count because each has its own statistics of a batch, the flags for the last bits.
    """
    return {
        "step": step,
        "commit": commit(),
        "devices": hardware()["devices"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def provenance(seed: int) -> dict[str, Any]:
    """Where figures come from: seed, command, commit, versions, hardware, date."""
    return {
        "seed": seed,
        "command": command(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "hardware": hardware(),
    }


def command() -> str:
    """The command line of this process, with paths as seen from the repository's root.

    XLA's flags stand before it, as a shell takes them: they change time, and the last bits.
    """
    line = shlex.join(["python", *(_from_root(word) for word in sys.argv)])
    flags = os.environ.get("XLA_FLAGS")
    return f"XLA_FLAGS={shlex.quote(flags)} {line}" if flags else line


def _from_root(word: str) -> str:
    path = Path(word)
    within = path.is_absolute() and path.is_relative_to(ROOT)
    return path.relative_to(ROOT).as_posix() if within else word


@functools.cache
def commit() -> str | None:
    """The commit of the code, with ``+`` where the code was changed since; None without git.

    It is that of the first call: a program that runs for hours asks at its start, for the code may
    go on meanwhile. Where there is no git, as in a container, the variable OTO_JAX_COMMIT says it.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", *CODE)
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or not a clone
        return os.environ.get("OTO_JAX_COMMIT")
    return head + ("+" if changes else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on, where installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB and JAX's devices."""
    devices = jax.devices()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": _usable_cores(),
        "memory_gib": _memory_gib(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _processor() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return platform.processor()
    names = re.findall(r"^model name\s*:\s*(.+)$", described, re.MULTILINE)
    return names[0] if names else platform.processor()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> int | None:
    try:
        return math.ceil(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):  # not POSIX
        return None
