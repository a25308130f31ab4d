"""The pages show what the result files hold."""

import pathlib
import subprocess

import pytest

from docs.tables import BLOCK, TABLES, filled, pages, to_root

ROOT = pathlib.Path(__file__).resolve().parents[2]


def committed(path: str) -> str | None:
    """A file as the last commit has it: running the demo writes its result file anew."""
    done = subprocess.run(
        ["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_come_from_the_result_files(page):
    text = committed(page.relative_to(ROOT).as_posix())
    if text is None:
        pytest.skip("there is no git here, or the page is not in a commit")
    assert filled(text, committed, to_root(page)) == text, "run python docs/tables.py"


def test_every_table_stands_on_a_page():
    shown = {match[1] for page in pages() for match in BLOCK.finditer(page.read_text())}
    assert shown == set(TABLES)
