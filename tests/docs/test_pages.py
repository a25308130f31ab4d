"""Every example in the documentation runs as written, from the top of its page to the end."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = sorted(
    page
    for page in (*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how_to/*.md"))
    if PYTHON.search(page.read_text())
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page, tmp_path):
    blocks = PYTHON.findall(page.read_text())
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_such_pages():
    assert len(PAGES) >= 7
