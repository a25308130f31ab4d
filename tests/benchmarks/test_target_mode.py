"""The study of ways to a target goes on after a kill, whatever it cut off."""

import pytest

from benchmarks.target_mode import finished, keep

SETTINGS = {"epochs": 1, "kept": (0.1,)}


def rows(way):
    return [{"way": way, "kept": 0.1, "seed": 0}]


@pytest.mark.parametrize("cut_off", [0, 1, 5])
def test_a_line_that_a_kill_cut_off_is_run_again_and_harms_no_other(tmp_path, cut_off):
    path = tmp_path / "rows.jsonl"
    assert finished(path, SETTINGS) == {}
    for way in ("first", "second"):
        keep(path, SETTINGS, rows(way))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut_off])
    left = {"first", "second"} if cut_off < 2 else {"first"}  # one byte is the line's end alone
    assert {way for way, _ in finished(path, SETTINGS)} == left
    keep(path, SETTINGS, rows("third"))
    assert {way for way, _ in finished(path, SETTINGS)} == {*left, "third"}


def test_runs_of_other_settings_are_not_taken(tmp_path):
    path = tmp_path / "rows.jsonl"
    keep(path, SETTINGS, rows("first"))
    assert finished(path, {**SETTINGS, "epochs": 2}) == {}
