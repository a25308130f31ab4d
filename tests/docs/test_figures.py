"""No figure in the documentation is written by hand: each is in a result file or published."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from docs.accuracy import PUBLISHED
from docs.tables import BLOCK, pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What is not prose: tables from result files, code, formulas, addresses.
NOT_PROSE = (BLOCK, r"(?s)```.*?```", r"`[^`]*`", r"\$[^$]*\$", r"\]\([^)]*\)", r"https?:\S+")
UNIT = r" ?%| (?:times|points|seconds|minutes|hours|ms|s|GiB|MB|MACs)\b"
FIGURE = re.compile(rf"(?<![\w.])(\d[\d,]*(?:\.\d+)?)(?={UNIT})")
ALL = (*pages(), *sorted(ROOT.glob("docs/how_to/*.md")))
GENERATED = {"models.md"}  # wholly from its result file, see below


def prose(page):
    text = page.read_text()
    for pattern in NOT_PROSE:
        text = re.sub(pattern, "", text)
    return text


def numbers(value):
    """Every number with a name in a JSON value, and those within its strings; no series."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from numbers(item)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, int | float):
        yield float(value)


def known():
    files = {ROOT / PUBLISHED, *ROOT.glob("results/*.json")} - {ROOT / "results/architectures.json"}
    return [number for file in files for number in numbers(json.loads(file.read_text()))]


def is_known(figure, numbers):
    """Whether a number rounds to the figure as it is written, itself or as a percentage."""
    digits = len(figure.partition(".")[2])
    wanted = float(figure.replace(",", ""))
    return any(round(scale * n, digits) == wanted for n in numbers for scale in (1, 100))


@pytest.mark.parametrize("page", [p for p in ALL if p.name not in GENERATED], ids=lambda p: p.name)
def test_figures_are_in_result_files(page):
    found = known()
    unknown = [figure for figure in FIGURE.findall(prose(page)) if not is_known(figure, found)]
    assert not unknown


def test_a_figure_of_nobody_is_noticed():
    assert not is_known("93.41", known())
    assert not is_known("1,234.5", known())


def test_the_page_of_models_is_written_from_its_results():
    code = (
        "from benchmarks.architectures import PAGE, RESULTS, page, read_results;"
        "assert page(read_results(RESULTS)) == PAGE.read_text()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
