"""Every notebook runs, and the outputs that are kept are whole, clean and those of its text."""

import subprocess
import sys

import jupytext
import nbformat
import pytest

from notebooks.execute import SOURCES, missing, problems

LARGEST = 300 * 1024  # bytes of a notebook that is kept


def test_there_are_six():
    assert [source.stem[:2] for source in SOURCES] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_runs_in_the_reduced_setting(source, root, tmp_path):
    """From top to bottom, in a fresh kernel; outputs are checked before they are written."""
    reason = missing(source)
    if reason is not None:
        pytest.skip(reason)
    command = [sys.executable, "notebooks/execute.py", source.stem, "--reduced", "--into", tmp_path]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = nbformat.read(tmp_path / f"{source.stem}.ipynb", as_version=4)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@pytest.fixture(params=SOURCES, ids=lambda source: source.stem)
def kept(request):
    """A notebook as text, and as it is kept with its outputs."""
    source = request.param
    return jupytext.read(source), source.with_suffix(".ipynb")


def test_kept_outputs_are_of_the_present_text(kept):
    text, file = kept
    notebook = nbformat.read(file, as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in text.cells]


def test_kept_notebooks_ran_from_top_to_bottom(kept):
    notebook = nbformat.read(kept[1], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)


def test_kept_outputs_are_small_and_clean(kept):
    _, file = kept
    assert file.stat().st_size < LARGEST
    assert list(problems(nbformat.read(file, as_version=4))) == []


def notebook_with(output):
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    return nbformat.v4.new_notebook(cells=[cell])


def printed(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    "output",
    [
        printed("anything", "stderr"),
        printed("UserWarning: careful"),
        printed("saved to /home/somebody/slim"),
        printed("C:\\Users\\somebody"),
        nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]),
        nbformat.v4.new_output("display_data", data={"text/plain": "PosixPath('/tmp/x')"}),
    ],
    ids=["stderr", "warning", "path", "windows path", "error", "path in a value"],
)
def test_what_may_not_be_kept_is_found(output):
    assert list(problems(notebook_with(output)))


@pytest.mark.parametrize("text", ["params/Conv_0/kernel axis 0", "1/2 of a/b", "99.8% (12 / 40)"])
def test_ordinary_outputs_pass(text):
    assert list(problems(notebook_with(printed(text)))) == []
