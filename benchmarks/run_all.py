"""Runs benchmarks one after another; says at the end which ended with an error, and with which.

``python benchmarks/run_all.py discovery optimizer`` runs those files of this folder. What each says
passes through as it comes. A benchmark that is over its bounds names them, with figures, in its
last line, and that line stands at the end of all once more; the exit status is then 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
REMEMBERED = 4096  # bytes of what a program said last


def run(script: Path) -> str | None:
    """Runs a program; returns the last line that it said of its error, None where it had none."""
    command = [sys.executable, str(script)]
    said = b""
    with subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stderr is not None
        while part := os.read(process.stderr.fileno(), REMEMBERED):
            os.write(sys.stderr.fileno(), part)  # in bytes: a progress bar stays on its line
            said = (said + part)[-REMEMBERED:]
    if not process.returncode:
        return None
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {process.returncode}"


def main(names: Sequence[str], folder: Path = FOLDER) -> int:
    """Runs them all, whatever one of them says; returns the exit status."""
    failed = {}
    for name in names:
        print(f"== {name}", flush=True)
        if error := run(folder / f"{name}.py"):
            failed[name] = error
    print(file=sys.stderr)
    for name, error in failed.items():
        print(f"benchmarks/{name}.py: {error}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
