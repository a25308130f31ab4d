"""A slim model comes back in a new process as it was, or not at all."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import oto_jax
from oto_jax.prune import checkpoint_files
from oto_jax.prune.fingerprint import contradict
from tests.prune.linen_models import (
    CASES,
    IMAGES,
    VECTORS,
    Configured,
    ResidualNet,
    Widths,
)
from tests.prune.nnx_models import MLP
from tests.prune.zeroing import half_zero, random_groups, randomised, zero_groups


def pruned(model, *inputs, **options):
    inputs = tuple(np.asarray(x, np.float32) for x in inputs)
    variables = randomised(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    zigs = oto_jax.find_zigs(model, variables, *inputs, **options)
    return oto_jax.prune(model, half_zero(variables, zigs), zigs)


@pytest.fixture(scope="module")
def slim():
    return pruned(ResidualNet(), IMAGES)


def assert_same(slim, again):
    assert again.plan == slim.plan
    assert_same_trees(slim.variables, again.variables)


def assert_same_trees(wanted, given):
    def compare(a, b):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(compare, wanted, given)


@pytest.mark.parametrize("name", ["residual", "configured", "own_attention", "scanned"])
def test_loads_as_saved(name, tmp_path):
    case = CASES[name]
    slim = pruned(case.model, *case.inputs, **case.options)
    oto_jax.save(tmp_path / "deep" / "slim", slim)
    again = oto_jax.load(tmp_path / "deep" / "slim", case.model)
    assert_same(slim, again)
    assert again.model == slim.model
    assert os.listdir(tmp_path / "deep") == ["slim"]


def test_head_dim_keeps_its_scale_through_a_checkpoint(tmp_path):
    case = CASES["head_dim"]
    slim = pruned(case.model, *case.inputs, **case.options)
    oto_jax.save(tmp_path / "slim", slim)
    again = oto_jax.load(tmp_path / "slim", case.model)
    x = case.inputs[0].astype(np.float32)
    np.testing.assert_array_equal(
        again.model.apply(again.variables, x), slim.model.apply(slim.variables, x)
    )


NEW_PROCESS = """
import sys, numpy as np, oto_jax
from tests.prune.linen_models import ResidualNet
slim = oto_jax.load(sys.argv[1], ResidualNet())
x = np.load(sys.argv[2])
np.save(sys.argv[3], slim.model.apply(slim.variables, x))
assert "pickle" not in open(oto_jax.prune.__globals__["__file__"]).read()
"""


def test_loads_in_a_new_process(slim, tmp_path, root):
    x = IMAGES.astype(np.float32)
    oto_jax.save(tmp_path / "slim", slim)
    np.save(tmp_path / "x.npy", x)
    files = [tmp_path / "slim", tmp_path / "x.npy", tmp_path / "y.npy"]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", NEW_PROCESS, *map(str, files)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(np.load(files[-1]), slim.model.apply(slim.variables, x))


def test_every_dtype_and_an_empty_array_come_back(tmp_path):
    dtypes = [jnp.bfloat16, np.float16, np.float32, np.int8, np.uint32, np.bool_, np.complex64]
    arrays = {str(i): jnp.ones((2, 3), dtype) for i, dtype in enumerate(dtypes)}
    tree: dict[str, Any] = {
        **arrays,
        "empty": np.zeros((0, 3), np.float64),
        "key": jax.random.key(3),
        "nested": [jnp.ones(2), (jnp.ones(()),)],
    }
    plan = oto_jax.Plan((), (), ())
    oto_jax.save(tmp_path / "all", oto_jax.Pruned(len, tree, plan))
    again = oto_jax.load(tmp_path / "all", len)
    key = jax.random.key_data(again.variables.pop("key"))
    np.testing.assert_array_equal(key, jax.random.key_data(tree.pop("key")))
    assert_same_trees(tree, again.variables)


def test_nnx_model_with_random_state(tmp_path):
    model = MLP(nnx.Rngs(0))
    x = VECTORS.astype(np.float32)
    zigs = oto_jax.find_zigs(model, x)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, zero_groups(params, zigs, random_groups(zigs)))
    slim = oto_jax.prune(model, zigs)
    oto_jax.save(tmp_path / "slim", slim)
    again = oto_jax.load(tmp_path / "slim", MLP(nnx.Rngs(7)))
    np.testing.assert_array_equal(again.model(x), slim.model(x))
    assert again.model.first.out_features == slim.model.first.out_features
    with pytest.raises(oto_jax.CheckpointError, match=r"first/.* is \(16"):
        oto_jax.load(tmp_path / "slim", MLP(nnx.Rngs(7), hidden=16))


class Activated(nn.Module):
    """Its shapes say nothing of its activation, nor of the number in its code."""

    act: Callable[[jax.Array], jax.Array] = nn.relu
    scale: float = 1.0
    backwards: bool = False

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3)(self.scale * self.act(nn.Dense(8)(x)))
        z = nn.Dense(3)(x)
        return z - y if self.backwards else y - z


class ActivatedNnx(nnx.Module):
    def __init__(self, act, rngs):
        self.first, self.act = nnx.Linear(4, 8, rngs=rngs), act
        self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(self.act(self.first(x))))


def test_a_model_of_the_same_shapes_that_computes_something_else_is_refused(tmp_path):
    x = np.ones((2, 4), np.float32)
    variables = Activated().init(jax.random.key(0), x)
    zigs = oto_jax.find_zigs(Activated(), variables, x)
    slim = oto_jax.prune(Activated(), half_zero(variables, zigs), zigs)
    oto_jax.save(tmp_path / "linen", slim)
    assert_same(slim, oto_jax.load(tmp_path / "linen", Activated()))
    for other in (Activated(nn.tanh), Activated(scale=2.0), Activated(backwards=True)):
        with pytest.raises(oto_jax.CheckpointError, match="computes something else"):
            oto_jax.load(tmp_path / "linen", other)
    model = ActivatedNnx(nnx.relu, nnx.Rngs(0))
    zigs = oto_jax.find_zigs(model, x)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, zero_groups(params, zigs, random_groups(zigs)))
    slim = oto_jax.prune(model, zigs)
    slim.model.eval()  # The mode is no part of the model.
    oto_jax.save(tmp_path / "nnx", slim)
    oto_jax.load(tmp_path / "nnx", ActivatedNnx(nnx.relu, nnx.Rngs(1)))
    with pytest.raises(oto_jax.CheckpointError, match="computes something else"):
        oto_jax.load(tmp_path / "nnx", ActivatedNnx(nnx.tanh, nnx.Rngs(0)))


def test_programs_traced_under_other_conditions_do_not_contradict():
    here = {"steps": "a", "jax": "1", "x64": False}
    assert contradict(here, {**here, "steps": "b"})
    assert not contradict(here, here)
    for change in ({"jax": "2"}, {"x64": True}):
        assert not contradict(here, {**here, "steps": "b", **change})


def test_variables_that_the_recorded_call_does_not_take_can_be_saved(slim, tmp_path):
    part = dataclasses.replace(slim, variables={"params": slim.variables["params"]})
    oto_jax.save(tmp_path / "part", part)
    assert json.loads((tmp_path / "part" / "plan.json").read_text())["content"]["program"] is None


def test_an_existing_checkpoint_is_kept_unless_told_otherwise(slim, tmp_path):
    oto_jax.save(tmp_path / "slim", slim)
    with pytest.raises(oto_jax.CheckpointError, match="overwrite=True"):
        oto_jax.save(tmp_path / "slim", slim)
    doubled = oto_jax.Pruned(slim.model, jax.tree.map(lambda x: 2 * x, slim.variables), slim.plan)
    oto_jax.save(tmp_path / "slim", doubled, overwrite=True)
    assert_same(doubled, oto_jax.load(tmp_path / "slim", ResidualNet()))
    assert os.listdir(tmp_path) == ["slim"]


@pytest.mark.parametrize("what", ["directory", "file"])
def test_what_is_no_checkpoint_is_never_replaced(slim, tmp_path, what):
    place = tmp_path / "thesis"
    file = place / "thesis.txt" if what == "directory" else place
    file.parent.mkdir(exist_ok=True)
    file.write_text("years of work")
    with pytest.raises(oto_jax.CheckpointError, match="is no checkpoint"):
        oto_jax.save(place, slim, overwrite=True)
    assert file.read_text() == "years of work"
    assert os.listdir(tmp_path) == ["thesis"]


@pytest.mark.parametrize("name", ["plan.json", "thesis.txt"])
def test_what_lies_beside_or_looks_like_a_checkpoint_is_never_replaced(slim, tmp_path, name):
    place = tmp_path / "slim"
    oto_jax.save(place, slim)
    (place / name).write_text('{"my": "own plan"}')
    with pytest.raises(oto_jax.CheckpointError, match="is no checkpoint"):
        oto_jax.save(place, slim, overwrite=True)
    assert (place / name).read_text() == '{"my": "own plan"}'


def test_a_damaged_checkpoint_may_be_replaced(slim, tmp_path):
    oto_jax.save(tmp_path / "slim", slim)
    truncate_plan(tmp_path / "slim")
    oto_jax.save(tmp_path / "slim", slim, overwrite=True)
    assert_same(slim, oto_jax.load(tmp_path / "slim", ResidualNet()))


def test_an_empty_directory_may_be_filled(slim, tmp_path):
    oto_jax.save(tmp_path, slim, overwrite=True)
    assert_same(slim, oto_jax.load(tmp_path, ResidualNet()))


@pytest.mark.parametrize("name", ["lr=[0.1,0.2]", "run[1]/slim", "*?", "a b ü", r"a\b"])
def test_a_place_may_have_any_name(slim, tmp_path, name):
    oto_jax.save(tmp_path / name, slim)
    oto_jax.save(tmp_path / name, slim, overwrite=True)
    assert_same(slim, oto_jax.load(tmp_path / name, ResidualNet()))
    assert len(list((tmp_path / name).parent.iterdir())) == 1


def test_a_place_elsewhere_is_named(slim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(oto_jax.CheckpointError, match="gs://bucket/slim is no place"):
        oto_jax.save("gs://bucket/slim", slim)
    with pytest.raises(oto_jax.CheckpointError, match="cannot be read"):
        oto_jax.load("a" * 300, ResidualNet())
    assert os.listdir(tmp_path) == []


def test_variables_of_other_widths_are_not_saved(slim, tmp_path):
    full = oto_jax.widen(slim.variables, slim.plan)
    with pytest.raises(oto_jax.CheckpointError, match="in the slim model"):
        oto_jax.save(tmp_path / "slim", dataclasses.replace(slim, variables=full))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "model", [ResidualNet, None, "ResidualNet", {}], ids=["class", "none", "name", "variables"]
)
def test_what_is_no_model_is_named(slim, tmp_path, model):
    oto_jax.save(tmp_path / "slim", slim)
    with pytest.raises(oto_jax.CheckpointError, match="of a ResidualNet, not of"):
        oto_jax.load(tmp_path / "slim", model)


def test_a_checkpoint_has_the_rights_of_other_directories(slim, tmp_path):
    (tmp_path / "usual").mkdir()
    oto_jax.save(tmp_path / "slim", slim)
    assert (tmp_path / "slim").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_place_below_a_file_is_named(slim, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(oto_jax.CheckpointError, match="could not be written"):
        oto_jax.save(tmp_path / "file" / "slim", slim)


@pytest.mark.parametrize("step", ["_write_arrays", "_write_content", "_check_written", "_replace"])
def test_a_failing_write_leaves_the_old_checkpoint(slim, tmp_path, monkeypatch, step):
    oto_jax.save(tmp_path / "slim", slim)

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_files, step, fail)
    with pytest.raises(oto_jax.CheckpointError, match="no space left"):
        oto_jax.save(tmp_path / "slim", slim, overwrite=True)
    monkeypatch.undo()
    assert_same(slim, oto_jax.load(tmp_path / "slim", ResidualNet()))
    assert os.listdir(tmp_path) == ["slim"]


@pytest.mark.parametrize(
    ("what", "raised"),
    [
        (OSError("read-only file system"), oto_jax.CheckpointError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["a failing disk", "ctrl-c"],
)
def test_what_stops_the_renaming_gives_the_old_one_back(slim, tmp_path, monkeypatch, what, raised):
    oto_jax.save(tmp_path / "slim", slim)
    rename = checkpoint_files.File.rename

    def fail(self, target):
        if self.name.startswith(".slim.writing-"):
            raise what
        return rename(self, target)

    monkeypatch.setattr(checkpoint_files.File, "rename", fail)
    with pytest.raises(raised):
        oto_jax.save(tmp_path / "slim", slim, overwrite=True)
    monkeypatch.undo()
    assert_same(slim, oto_jax.load(tmp_path / "slim", ResidualNet()))
    assert os.listdir(tmp_path) == ["slim"]


def test_an_unreadable_new_checkpoint_never_takes_the_place_of_a_good_one(
    slim, tmp_path, monkeypatch
):
    oto_jax.save(tmp_path / "slim", slim)
    write = checkpoint_files._write_arrays

    def write_wrong(directory, arrays):
        write(directory, [array + 1 for array in arrays])

    monkeypatch.setattr(checkpoint_files, "_write_arrays", write_wrong)
    with pytest.raises(oto_jax.CheckpointError, match="does not have the bytes"):
        oto_jax.save(tmp_path / "slim", slim, overwrite=True)
    monkeypatch.undo()
    assert_same(slim, oto_jax.load(tmp_path / "slim", ResidualNet()))


def lose_plan(place):
    place.joinpath("plan.json").unlink()


def truncate_plan(place):
    file = place / "plan.json"
    file.write_text(file.read_text()[:1000])


def edit_plan(place):
    file = place / "plan.json"
    document = json.loads(file.read_text())
    document["content"]["plan"]["spaces"][0]["units"] += 1
    file.write_text(json.dumps(document))


def lose_arrays(place):
    for file in sorted((place / "arrays").rglob("*"), reverse=True):
        if file.is_file() and "d" in file.parts[-2:]:
            file.unlink()


def lose_folder(place):
    (place / "arrays").rename(place / "elsewhere")


def flip_bytes(place):
    for file in (place / "arrays").rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage", [lose_plan, truncate_plan, edit_plan, lose_arrays, lose_folder, flip_bytes]
)
def test_damage_is_found_and_named(slim, tmp_path, damage):
    oto_jax.save(tmp_path / "slim", slim)
    damage(tmp_path / "slim")
    with pytest.raises(
        oto_jax.CheckpointError, match=r"incomplete or damaged.*save the slim model"
    ):
        oto_jax.load(tmp_path / "slim", ResidualNet())


def test_a_newer_format_is_named(slim, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "VERSION", 1 + checkpoint_files.VERSION)
    oto_jax.save(tmp_path / "slim", slim)
    monkeypatch.undo()
    with pytest.raises(oto_jax.CheckpointError, match="update oto_jax"):
        oto_jax.load(tmp_path / "slim", ResidualNet())


def test_nothing_there_and_interrupted_saves_are_told_apart(slim, tmp_path):
    place = tmp_path / "slim"
    with pytest.raises(oto_jax.CheckpointError, match="there is no checkpoint"):
        oto_jax.load(place, ResidualNet())
    (tmp_path / ".slim.writing-abc").mkdir()
    with pytest.raises(oto_jax.CheckpointError, match="before it was complete"):
        oto_jax.load(place, ResidualNet())
    (tmp_path / ".slim.old-abc" / "slim").mkdir(parents=True)
    with pytest.raises(oto_jax.CheckpointError, match="rename"):
        oto_jax.load(place, ResidualNet())


class Renamed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="other")(nn.relu(nn.Dense(10)(x)))


@pytest.mark.parametrize(
    "model, path",
    [
        (Configured(Widths((10, 15), 12)), "params/Dense_1/bias"),
        (Configured(Widths((10,), 12)), "params/Dense_1/bias"),
        (Renamed(), "params/Dense_1/bias"),
    ],
)
def test_the_wrong_model_is_named_by_its_first_difference(tmp_path, model, path):
    oto_jax.save(tmp_path / "slim", pruned(Configured(), VECTORS))
    with pytest.raises(oto_jax.CheckpointError, match=path):
        oto_jax.load(tmp_path / "slim", model)
    oto_jax.load(tmp_path / "slim", Configured())


def test_the_wrong_class_is_named_where_no_call_was_recorded(tmp_path):
    slim = pruned(Configured(), VECTORS)
    plan = dataclasses.replace(slim.plan, call=None)
    oto_jax.save(tmp_path / "slim", oto_jax.Pruned(slim.model, slim.variables, plan))
    with pytest.raises(oto_jax.CheckpointError, match="of a Configured, not of a Renamed"):
        oto_jax.load(tmp_path / "slim", Renamed())
    assert oto_jax.load(tmp_path / "slim", Configured()).model == slim.model


def test_trees_of_other_nodes_are_refused(tmp_path):
    class Pair(NamedTuple):
        a: np.ndarray
        b: np.ndarray

    pair = Pair(np.ones(2), np.ones(3))
    with pytest.raises(oto_jax.CheckpointError, match="Pair"):
        oto_jax.save(tmp_path / "x", oto_jax.Pruned(len, {"p": pair}, oto_jax.Plan((), (), ())))
    assert not (tmp_path / "x").exists()
