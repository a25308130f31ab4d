"""Result files say where their figures come from, and are written whole or not at all."""

import json
import os
import re
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.errors import DamagedDataError
from experiments.results import commit, format_json, read_results, write_results

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
@example({"text": "[1,2]", "lines": "[\n1,2\n]"})
def test_formatting_keeps_every_value(value):
    assert json.loads(format_json(value)) == value


def test_a_row_of_numbers_is_one_line():
    assert format_json([[1.5, -2e-9], [3]]) == "[\n  [1.5, -2e-09],\n  [3]\n]"


@pytest.mark.parametrize(
    "flags, before", [("", ""), ("--one=1 --two=2", "XLA_FLAGS='--one=1 --two=2' ")]
)
def test_a_result_file_says_where_its_figures_come_from(tmp_path, monkeypatch, flags, before):
    monkeypatch.setattr(sys, "argv", ["experiments/digits.py", "--seed", "7"])
    monkeypatch.setenv("XLA_FLAGS", flags)
    path = tmp_path / "new" / "folder" / "digits.json"
    write_results(path, {"accuracy": np.float32(0.5), "norms": np.arange(3)}, seed=7)
    found = read_results(path)
    assert found["accuracy"] == 0.5
    assert found["norms"] == [0, 1, 2]
    assert found["seed"] == 7
    assert found["versions"]["jax"]
    assert found["hardware"]["cores"] >= 1
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", found["commit"])
    assert found["command"] == f"{before}python experiments/digits.py --seed 7"


def test_the_commit_can_be_told_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for told in (None, "e" * 40):
        if told:
            monkeypatch.setenv("OTO_JAX_COMMIT", told)
        else:
            monkeypatch.delenv("OTO_JAX_COMMIT", raising=False)
        commit.cache_clear()
        assert commit() == told
    commit.cache_clear()


@pytest.mark.parametrize("bad", [float("nan"), object()])
def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path, bad):
    path = tmp_path / "digits.json"
    write_results(path, {"accuracy": 1.0}, seed=0)
    before = path.read_bytes()
    with pytest.raises((ValueError, TypeError)):
        write_results(path, {"accuracy": bad}, seed=0)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["digits.json"]


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "digits.json"
    path.write_text('{"accuracy": ')
    with pytest.raises(DamagedDataError, match=str(path)):
        read_results(path)
