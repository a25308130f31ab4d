"""The README's example runs as written, and its links lead somewhere."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def example_output(tmp_path_factory):
    """What the example prints, run in a new process whose warnings are errors."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    folder = tmp_path_factory.mktemp("readme")
    (folder / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "slim_digits").is_dir()
    return done.stdout


def test_example_keeps_what_the_text_promises(example_output):
    kept = re.search(r"parameters.*?([\d.]+)%", example_output)
    difference = re.search(r"\(([\d.e+-]+) of the largest output\)", example_output)
    assert kept is not None
    assert difference is not None
    assert float(kept[1]) < 6
    assert float(difference[1]) < 1e-6


def test_example_is_short():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 24


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
