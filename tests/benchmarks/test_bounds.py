"""A figure over its bound ends a benchmark, and the last line says which one and by how much."""

import subprocess
import sys

import pytest

from benchmarks import optimizer, run_all, scaling
from benchmarks.architectures import line, unproven
from benchmarks.bounds import Bound, leave_if_over, record


@pytest.mark.parametrize("value, over", [(1.0, False), (1.001, True), (float("nan"), True)])
def test_a_figure_may_be_its_bound_and_no_more(value, over):
    bound = Bound("time", value, 1.0)
    assert record([bound])["over"] == (["time"] if over else [])
    if over:
        with pytest.raises(SystemExit, match=r"over its bounds: time: (1.001|nan) \("):
            leave_if_over([Bound("memory", 0.0, 1.0), bound])
    else:
        leave_if_over([bound])


def test_the_runner_goes_on_after_a_failure_and_ends_with_what_each_one_said(tmp_path, capfd):
    programs = {
        "first": "import sys; sys.exit('over its bounds: time: 2 (at most 1)')",
        "second": "print('within')",
        "third": "import sys; sys.stderr.write('at work\\rbroken'); sys.exit(3)",
        "fourth": "raise SystemExit(4)",
    }
    for name, code in programs.items():
        (tmp_path / f"{name}.py").write_text(code)
    assert run_all.main(["first", "second", "third", "fourth"], tmp_path) == 1
    out, err = capfd.readouterr()
    assert "within" in out
    assert err.splitlines()[-3:] == [
        "benchmarks/first.py: over its bounds: time: 2 (at most 1)",
        "benchmarks/third.py: broken",
        "benchmarks/fourth.py: exit status 4",
    ]
    assert run_all.main(["second"], tmp_path) == 0


def test_the_runner_refuses_a_benchmark_that_does_not_exist():
    command = [sys.executable, run_all.__file__, "no_such_benchmark"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no_such_benchmark" in done.stderr


def test_every_doubling_of_the_depth_is_judged_and_the_width():
    times = {8: 1.0, 16: 2.0, 32: 5.0, 64: 10.0}
    rows = {
        (depth, width): {"find_zigs_s": time * width, "prune_s": time}
        for depth, time in times.items()
        for width in (1, 4)
    }
    over = record(scaling.bounds(rows))["over"]
    assert [what for what in over if "x1" in what and "x4" not in what] == [
        "find_zigs of 32 layers, width x1, of 16 layers",
        "prune of 32 layers, width x1, of 16 layers",
    ]
    assert len([what for what in over if what.endswith("of width x1")]) == len(times)


def figures_of_optimizers(**changes):
    row = {"median_ms": 100.0, "temporary_mb": 50.0, "ratio": 0.9}
    names = ("sgd", "hspg", "sgd, momentum", "hspg, momentum")
    steps = {name: {**row, **changes.get(name, {})} for name in names}
    return {"updates": {"hspg, momentum": row}, "steps": steps, "moves_over_parameters": {"g": 0}}


def test_a_step_with_momentum_is_judged_beside_the_same_step_of_sgd():
    assert record(optimizer.bounds(figures_of_optimizers()))["over"] == []
    slow = figures_of_optimizers(**{"hspg, momentum": {"median_ms": 106.0}})
    assert record(optimizer.bounds(slow))["over"] == ["step of hspg, momentum; of sgd, momentum"]
    large = figures_of_optimizers(hspg={"temporary_mb": 56.0})
    assert record(optimizer.bounds(large))["over"] == ["temporary memory of hspg's step; of sgd's"]


def test_a_row_whose_zeros_moved_no_output_is_marked_as_unproven():
    row = {
        "name": "x", "groups": 4, "groupable": 0.5, "discovery_s": 0.1, "narrowed": 0.0,
        "rebuilt": "", "difference": None, "seconds": 1.0,
    }  # fmt: skip
    assert unproven(0.0)
    assert "unproven" in line({**row, "effect": 1e-12})
    assert "unproven" not in line({**row, "effect": 0.1})
