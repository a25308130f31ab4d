"""Where questions are looked for, and TFDS's own preparation of SQuAD."""

import hashlib
import json
import lzma

import pytest

from experiments.errors import MissingDataError
from experiments.squad.files import load_questions
from experiments.squad.questions import read_questions


@pytest.fixture
def article(shared_data, tmp_path):
    """A SQuAD file with one real article."""
    packed = (shared_data / "squad" / "dev-v1.1.json.xz").read_bytes()
    content = json.loads(lzma.decompress(packed))
    content["data"] = content["data"][1:2]
    file = tmp_path / "one-article.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty places for data: the project's and TFDS's."""
    monkeypatch.setenv("OTO_JAX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    (tmp_path / "data" / "squad").mkdir(parents=True)
    return tmp_path / "data" / "squad", tmp_path / "tfds"


def prepare_with_tfds(article, folder, tmp_path, monkeypatch):
    """TFDS's own builder, on a file that was placed for it; only the expected hash is ours."""
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder("squad", data_dir=folder, file_format="array_record")
    manual = tmp_path / "manual"
    manual.mkdir()
    infos = {}
    for split in ("train", "dev"):
        name, raw = f"{split}-v1.1.json", article.read_bytes()
        (manual / name).write_bytes(raw)
        url = next(url for url in builder.url_infos if url.endswith(name))
        infos[url] = tfds.core.download.checksums.UrlInfo(
            size=len(raw), checksum=hashlib.sha256(raw).hexdigest(), filename=name
        )
    monkeypatch.setattr(type(builder), "url_infos", infos)
    builder.download_and_prepare(
        download_dir=tmp_path / "downloads",
        download_config=tfds.download.DownloadConfig(manual_dir=manual),
    )


@pytest.mark.filterwarnings("ignore")  # TFDS's own
def test_what_tfds_prepares_holds_the_same_questions(article, folders, tmp_path, monkeypatch):
    prepare_with_tfds(article, folders[1], tmp_path, monkeypatch)
    expected = {q.id: q for q in read_questions(article)}
    for split in ("train", "dev"):
        assert {q.id: q for q in load_questions(split)} == expected  # TFDS shuffles.


def test_files_come_first_and_parts_last(article, folders, tmp_path, capsys):
    expected = read_questions(article)
    assert load_questions("train", article) == expected
    (folders[0] / "train-v1.1-part.json").write_bytes(article.read_bytes())
    assert load_questions("train") == expected
    assert f"{len(expected)} of the 87599 train" in capsys.readouterr().out
    one = json.loads(article.read_text())
    one["data"][0]["paragraphs"] = one["data"][0]["paragraphs"][:1]
    (folders[0] / "train-v1.1.json.xz").write_bytes(lzma.compress(json.dumps(one).encode()))
    assert len(load_questions("train")) < len(expected)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("split", "option"), [("train", "--train-file"), ("dev", "--eval-file")])
def test_missing_questions_come_with_the_way_to_get_them(folders, split, option):
    with pytest.raises(MissingDataError) as error:
        load_questions(split)
    assert option in str(error.value)
    assert f"{split}-v1.1.json" in str(error.value)


def test_an_unfinished_preparation_is_named(folders):
    (folders[1] / "squad" / "v1.1").mkdir(parents=True)
    with pytest.raises(MissingDataError, match="no version"):
        load_questions("dev")
