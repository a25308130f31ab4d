"""The other Python: where it is, and how it is asked. Absent, comparisons are skipped."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "OTO_JAX_PEERS_PYTHON"


class PeersMissingError(RuntimeError):
    """There is no environment with the peers, or it does not answer."""


def interpreter() -> Path:
    """The Python that has PyTorch and the peers.

    Raises:
      PeersMissingError: if there is none; says how to get one.
    """
    named = os.environ.get(VARIABLE)
    found = Path(named) if named else ROOT / ".venv-peers" / "bin" / "python"
    if not found.exists():
        what = f"{VARIABLE} names {found}, which" if named else "the peers' environment .venv-peers"
        raise PeersMissingError(
            f"{what} does not exist: `make peers` sets it up (PyTorch, Torch-Pruning,"
            f" only_train_once), or set {VARIABLE} to a Python that has requirements/peers.txt"
        )
    return found


Ask = Callable[[str], dict[str, Any]]


@contextmanager
def conversation(script: str) -> Iterator[tuple[dict[str, Any], Ask]]:
    """Starts a script of this folder in the peers' environment and talks to it by lines.

    Args:
      script: its file name; it greets with a line of JSON and answers each line with another.

    Yields:
      The greeting, and a function from a line to the answer.

    Raises:
      PeersMissingError: if there is no such environment, or the script ends early.
    """
    command = [str(interpreter()), str(Path(__file__).with_name(script))]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as errors,  # the peers say much: a pipe would fill up
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        talk, listen = process.stdin, process.stdout

        def answer() -> dict[str, Any]:
            line = listen.readline()
            if not line:
                errors.seek(0)
                raise PeersMissingError(_last_words(script, errors.read()))
            found: dict[str, Any] = json.loads(line)
            return found

        def ask(line: str) -> dict[str, Any]:
            talk.write(line + "\n")
            talk.flush()
            return answer()

        yield answer(), ask


def _last_words(script: str, errors: str) -> str:
    said = errors.strip().splitlines() or ["it said nothing"]
    return f"benchmarks/peers/{script} ended early: {said[-1]}"
