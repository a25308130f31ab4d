"""Checkpoint files: read without torch, written whole, and refused by name when they are bad."""

import contextlib
import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.pretrained.checkpoint import (
    CheckpointFilesError,
    load_bert,
    read_tensors,
    save_bert,
)
from experiments.pretrained.torch_bin import TorchFileError, read_torch_bin
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig, BertConfigError
from oto_jax.models.bert_weights import MissingTensorsError, TensorShapeError, tensors_from_params
from tests.experiments.golden_torch_bin import LEGACY, ZIP, expected

CONFIG = BertConfig.uniform(1, 8, 2, 12, vocabulary=30, positions=16)


@pytest.fixture(scope="module")
def params():
    ids, draw = np.ones((1, 4), np.int32), np.random.default_rng(0)
    shapes = jax.eval_shape(BertForQuestionAnswering(CONFIG).init, jax.random.key(0), ids)
    return jax.tree.map(lambda a: draw.normal(size=a.shape).astype(a.dtype), shapes["params"])


@pytest.fixture
def folder(tmp_path, params):
    save_bert(tmp_path / "bert", params, CONFIG, None)
    return tmp_path / "bert"


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("file", [ZIP, LEGACY], ids=["zip", "legacy"])
def test_torch_files_hold_what_torch_wrote(file):
    found = read_torch_bin(file)
    assert found.keys() == expected().keys()
    for name, array in expected().items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == np.asarray(array).dtype


@settings(max_examples=100)
@given(data=st.data(), which=st.sampled_from([ZIP, LEGACY]))
def test_damaged_torch_files_are_named_or_harmless(tmp_path_factory, data, which):
    """Cut or altered anywhere, a file is refused by name or still yields plain arrays."""
    raw = bytearray(which.read_bytes())
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    for _ in range(data.draw(st.integers(0, 4)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.bin"
    file.write_bytes(raw)
    with contextlib.suppress(TorchFileError):
        assert all(isinstance(array, np.ndarray) for array in read_torch_bin(file).values())


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, zipped):
    marker, file = tmp_path / "was-run", tmp_path / "weights.bin"
    payload = pickle.dumps({"weight": Hostile(marker)}, protocol=2)
    if zipped:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
    else:
        file.write_bytes(payload)
    with pytest.raises(TorchFileError, match=r"asks for \w+\.open"):
        read_torch_bin(file)
    assert not marker.exists()


def one_tensor(file, offset, size, stride):
    """A file with one vector, as a view of a storage of four numbers: 0, 1, 2, 3."""
    name, storage, key, device = (
        b"X" + len(text).to_bytes(4, "little") + text for text in (b"w", b"storage", b"0", b"cpu")
    )
    place = b"(" + storage + b"ctorch\nFloatStorage\n" + key + device + b"K\x04tQ"
    numbers = b"K%cK%c\x85K%c\x85" % (offset, size, stride)
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + numbers + b"\x89}tR"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + name + view + b"s.")
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())


def test_a_view_stays_within_its_storage(tmp_path):
    file = tmp_path / "weights.bin"
    one_tensor(file, offset=1, size=2, stride=2)
    np.testing.assert_array_equal(read_torch_bin(file)["w"], [1.0, 3.0])
    for offset, size, stride in ((1, 2, 3), (2, 3, 1), (4, 1, 1), (0, 200, 100)):
        one_tensor(file, offset, size, stride)
        with pytest.raises(TorchFileError, match="beyond its storage"):
            read_torch_bin(file)


def test_a_pickle_of_other_things_is_named(tmp_path):
    file = tmp_path / "weights.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"epoch": 3}, protocol=2))
    with pytest.raises(TorchFileError, match="no tensors"):
        read_torch_bin(file)


def test_a_checkpoint_is_written_and_read_again(folder, params):
    checkpoint = load_bert(folder)
    assert checkpoint.config == CONFIG
    assert_same(checkpoint.weights.params, params)
    assert not list(folder.glob("*.tmp"))


def test_half_precision_weights_become_float32(folder, params):
    for kind in (np.float16, jax.numpy.bfloat16):
        tensors = {k: v.astype(kind) for k, v in tensors_from_params(params, CONFIG).items()}
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        loaded = load_bert(folder).weights.params
        assert_same(loaded, jax.tree.map(lambda a, k=kind: a.astype(k).astype(np.float32), params))


def test_shards_are_put_together(folder, params):
    tensors = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert_same(load_bert(folder).weights.params, params)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointFilesError, match=r"model-1\.safetensors is missing"):
        load_bert(folder)


def test_a_name_on_the_hub_is_found_in_its_cache(folder, params, tmp_path, monkeypatch):
    revision = "0" * 40
    repository = tmp_path / "hub" / "models--someone--tiny-bert"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / revision)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert_same(load_bert("someone/tiny-bert").weights.params, params)
    with pytest.raises(CheckpointFilesError, match="someone/other"):
        load_bert("someone/other")


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda f: (f / "config.json").unlink(), CheckpointFilesError, r"config\.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointFilesError, "not JSON"),
        (lambda f: (f / "model.safetensors").unlink(), CheckpointFilesError, "holds none of"),
        (lambda f: cut(f / "model.safetensors"), CheckpointFilesError, "is damaged"),
        (lambda f: edit(f, model_type="gpt2"), BertConfigError, "'gpt2'"),
        (lambda f: edit(f, vocab_size=31), TensorShapeError, "word_embeddings"),
        (lambda f: edit(f, num_hidden_layers=2), MissingTensorsError, r"encoder\.layer\.1"),
    ],
)
def test_bad_checkpoints_are_named(folder, damage, error, words):
    damage(folder)
    with pytest.raises(error, match=words):
        load_bert(folder)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def edit(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
