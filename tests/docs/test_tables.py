"""The pages show what the result files hold."""

import pathlib
import subprocess

import pytest

from docs.tables import BLOCK, TABLES, filled, pages

ROOT = pathlib.Path(__file__).resolve().parents[2]


def committed(path: str) -> str:
    """A file as the last commit has it: running the demo writes its result file anew."""
    done = subprocess.run(
        ["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"{path} is not in a commit: {done.stderr.strip()}")
    return done.stdout


def is_committed(path: str) -> bool:
    """Whether a result is there to be shown: its table's function may come first."""
    done = subprocess.run(
        ["git", "cat-file", "-e", f"HEAD:{path}"], cwd=ROOT, capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_come_from_the_result_files(page):
    name = page.relative_to(ROOT).as_posix()
    text = committed(name)
    assert filled(text, committed) == text, "run python docs/tables.py"


def test_every_table_stands_on_a_page():
    shown = {match[1] for page in pages() for match in BLOCK.finditer(page.read_text())}
    files = {f"results/{name}.json" for name in TABLES}
    assert shown == {file for file in files if is_committed(file)}
