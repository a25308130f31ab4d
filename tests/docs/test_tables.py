"""The pages show what the result files hold."""

import pathlib
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
