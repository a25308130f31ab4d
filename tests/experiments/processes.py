"""Training runs in processes of their own, which can be killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

DIGITS = Path(__file__).parent / "digits_run.py"


def launch(*arguments, cache, script=DIGITS, **environment):
    """Starts a script; compiled programs are kept in ``cache``, for the next process to find."""
    return subprocess.Popen(
        [sys.executable, *map(str, (script, *arguments))],
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process, timeout=500):
    """What a process printed, once it ended well."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]
    return output


def wait_for_step(process, folder, step, timeout=300):
    """Waits until a run has written the metrics of a step, or has ended."""
    deadline = time.monotonic() + timeout
    file = folder / "timing.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and f'"step": {step},' in file.read_text():
            return
        time.sleep(0.01)
    assert process.poll() is not None, f"no step {step} after {timeout} s"


def kill(process):
    """Kills a process as a power cut would."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
