"""The pages show what the result files hold."""

import json
import pathlib
import re
import subprocess

import pytest

from docs import accuracy
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


FIGURES = re.compile(r"(?:(\d+(?:\.\d+)?) and )?(\d+(?:\.\d+)?) ?(?:%|points)")
MEASURED = frozenset(
    "top1 test_accuracy score exact_match f1 kept kept_macs kept_parameters effects standard_error"
    " same_class top1_with top1_without worst_relative_difference".split()
)


def measured(content, name=None):
    """Every share and score in a result file, and the numbers in what others report."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from measured(value, name if name in MEASURED else key)
    elif isinstance(content, list):
        for value in content:
            yield from measured(value, name)
    elif name in MEASURED and isinstance(content, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", content))
    elif name in MEASURED and content is not None:
        yield float(content)


def prose(page):
    text = BLOCK.sub("", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    return re.sub(r"`[^`]*`", "", text)


def test_figures_in_the_text_are_in_the_result_files_too():
    files = [*(ROOT / "results").glob("*.json"), ROOT / accuracy.PUBLISHED]
    known = [value for file in files for value in measured(json.loads(file.read_text()))]
    seen = 0
    for page in pages():
        if page.name == "models.md":  # written by benchmarks/architectures.py
            continue
        for figure in (x for found in FIGURES.findall(prose(page)) for x in found if x):
            digits = len(figure.partition(".")[2])
            same = (round(share * value, digits) == float(figure)
                    for value in known for share in (1, 100))  # fmt: skip
            assert any(same), f"{page.name}: {figure}"
            seen += 1
    assert seen >= 2


def test_every_table_stands_on_a_page():
    shown = {match[1] for page in pages() for match in BLOCK.finditer(page.read_text())}
    assert shown == set(TABLES)


def a_run(top1):
    kept = {"kept": 0.5}
    recipe = {"epochs": 10, "weight_decay": 1e-4}
    config = {"recipe": recipe, "data": {"train_images": None}}
    return {"slim_test": {"top1": top1}, "macs": kept, "parameters": kept, "config": config}


def test_seeds_of_a_row_are_shown_by_their_mean_and_range():
    found = [None] * len(accuracy.RESNET_FILES)
    assert "seeds" not in accuracy.cifar_resnets(a_run(90.0), *found[1:])
    row = accuracy.cifar_resnets(a_run(90.0), a_run(90.5), a_run(92.5), *found[3:]).splitlines()[2]
    assert "91.00 % (90.00 - 92.50, 3 seeds)" in row
    assert "not run" not in row


def test_a_row_over_a_part_of_the_images_is_refused():
    run = a_run(90.0) | {"command": "python x.py --train-images 500"}
    run["config"]["data"]["train_images"] = 500
    with pytest.raises(ValueError, match="--train-images 500"):
        accuracy.cifar_resnets(run, *[None] * (len(accuracy.RESNET_FILES) - 1))


def test_a_row_from_published_weights_counts_their_training_too():
    reports = [
        {"who": "A", "source": "x", "training": "9 epochs", "rows": [
            {"network": "N", "score": "94.00 %", "kept": "half", "beside": name}
            for name in accuracy.BESIDE
        ]},
        {"who": "B", "source": "y", "training": "7 epochs, dense", "rows": [
            {"network": "N", "score": "93.50 %", "kept": "all"}
        ]},
    ]  # fmt: skip
    trained = a_run(90.0)
    pretrained = a_run(91.0)
    pretrained["config"]["from_scratch"] = False
    rows = accuracy.beside(reports, trained, pretrained, None).splitlines()[2:]
    assert "10 epochs from scratch" in rows[0]
    assert "93.50 to 91.00 % at 50.0 %" in rows[1]
    assert "7 epochs (published), 10 epochs" in rows[1]
    assert "not run" in rows[2]
