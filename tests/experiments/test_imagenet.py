"""The miniature ImageNet through the code that reads the full one."""

import itertools
import pathlib
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data import imagenet, miniature_imagenet
from experiments.errors import DamagedDataError, MissingDataError, OptionError


@pytest.fixture(scope="module")
def miniature(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    miniature_imagenet.prepare(folder, shared_data)
    return imagenet.find(folder)


def take(count, *arguments, **options):
    batches = imagenet.training_batches(*arguments, size=32, **options)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, wanted in zip(batches, expected, strict=True):
        assert batch.keys() == wanted.keys()
        assert all((batch[name] == wanted[name]).all() for name in wanted)


def test_the_miniature_has_the_full_sets_classes(miniature):
    assert (miniature.train, miniature.validation, miniature.classes) == (2500, 500, 1000)


def test_labels_belong_to_the_images(miniature):
    source = imagenet.encoded_examples(miniature, "train")
    for index in range(0, 2500, 250):
        example = source[index]
        assert cv2.imdecode(np.frombuffer(example["image"], np.uint8), 1) is not None
    labels = [source[index]["label"] for index in range(2500)]
    assert len(set(labels)) == 1000


def test_batches_go_on_from_any_step_with_any_number_of_workers(miniature):
    whole = take(6, miniature, 20, 7, 120)  # across the epoch's end at step 125
    assert whole[0]["image"].shape == (20, 32, 32, 3)
    assert_same(take(2, miniature, 20, 7, 124), whole[4:])
    assert_same(take(3, miniature, 20, 7, 123, workers=2), whole[3:])


def test_the_parts_of_all_hosts_are_the_batch_of_one(miniature):
    whole = take(2, miniature, 20, 7, 3)
    parts = [take(2, miniature, 20, 7, 3, host=host, hosts=2) for host in range(2)]
    for step, batch in enumerate(whole):
        for name in batch:
            assert (batch[name][0::2] == parts[0][step][name]).all()
            assert (batch[name][1::2] == parts[1][step][name]).all()


def test_an_epoch_shuffles_and_holds_no_image_twice(miniature):
    batches = take(10, miniature, 250, 7, 0)
    labels = np.concatenate([batch["label"] for batch in batches])
    source = imagenet.encoded_examples(miniature, "train")
    expected = np.sort([source[index]["label"] for index in range(2500)])
    assert (np.sort(labels) == expected).all()
    assert (take(1, miniature, 250, 7, 10)[0]["label"] != batches[0]["label"]).any()


@pytest.mark.parametrize("hosts", [1, 2])
def test_validation_sees_every_image_exactly_once(miniature, hosts):
    parts = [
        list(imagenet.validation_batches(miniature, 96, size=16, host=host, hosts=hosts))
        for host in range(hosts)
    ]
    assert {len(part) for part in parts} == {6}
    batches = list(itertools.chain(*parts))
    assert sum(batch["mask"].sum() for batch in batches) == 500
    labels = np.concatenate([batch["label"][batch["mask"] > 0] for batch in batches])
    source = imagenet.encoded_examples(miniature, "validation")
    assert (np.sort(labels) == np.sort([source[i]["label"] for i in range(500)])).all()


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**32))
def test_a_random_part_lies_within_its_image(width, height, seed):
    left, top, w, h = imagenet.random_part(width, height, np.random.default_rng(seed))
    assert 0 <= left < left + w <= width
    assert 0 <= top < top + h <= height


@given(st.integers(40, 300), st.integers(40, 300), st.integers(0, 2**32))
def test_a_decoded_part_looks_like_that_part(width, height, seed):
    """A smooth picture survives JPEG, halving and resizing up to a few grey levels."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 99.0)], -1)
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1].astype(np.uint8))
    part = imagenet.random_part(width, height, np.random.default_rng(seed))
    left, top, w, h = part
    if min(w, h) < 16:
        return
    found = imagenet.decode_part(encoded.tobytes(), part, 16).astype(float)
    middle = (np.arange(16) + 0.5) / 16
    expected_x = 255 * (left + middle * w - 0.5) / width
    expected_y = 255 * (top + middle * h - 0.5) / height
    assert np.abs(found[..., 0] - expected_x[None, :]).mean() < 8
    assert np.abs(found[..., 1] - expected_y[:, None]).mean() < 8
    assert np.abs(found[..., 2] - 99).mean() < 8


def test_missing_data_says_which_commands_prepare_it(tmp_path):
    with pytest.raises(MissingDataError) as caught:
        imagenet.find(tmp_path)
    message = str(caught.value)
    assert "ILSVRC2012_img_train.tar" in message
    assert "download_and_prepare()" in message
    assert "miniature_imagenet.py" in message


def test_a_damaged_data_set_is_named(tmp_path):
    (tmp_path / "imagenet2012" / "5.1.0").mkdir(parents=True)
    with pytest.raises(DamagedDataError, match=r"5\.1\.0"):
        imagenet.find(tmp_path)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def blacken(file):
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("*-train.array_record*", cut),
        ("*-train.array_record*", blacken),
        ("*-train.array_record*", pathlib.Path.unlink),
        ("dataset_info.json", cut),
        ("features.json", pathlib.Path.unlink),
    ],
)
def test_a_damaged_file_is_named(miniature, tmp_path, name, damage):
    folder = tmp_path / "imagenet2012" / "5.1.0"
    shutil.copytree(miniature.folder, folder)
    damage(next(folder.glob(name)))
    with pytest.raises(DamagedDataError, match=r"5\.1\.0 is damaged"):
        take(5, imagenet.find(tmp_path), 500, 0, 0)


def test_a_damaged_image_is_named():
    element = {"image": b"no picture", "label": 0, "file_name": b"n01440764_1.JPEG"}
    with pytest.raises(DamagedDataError, match=r"n01440764_1\.JPEG: .*header"):
        imagenet.RandomResizedCrop(8).random_map(element, np.random.default_rng(0))
    with pytest.raises(DamagedDataError, match=r"n01440764_1\.JPEG: .*header"):
        imagenet.CentreCrop(8).map(element)


def test_a_batch_larger_than_the_data_is_refused(miniature):
    with pytest.raises(OptionError, match="2500 training images"):
        take(1, miniature, 2501, 0, 0)


def test_decoding_is_fast_enough_to_be_worth_it(miniature, record_property):
    speed = imagenet.measure_decoding(miniature, seconds=0.5)
    record_property("images_per_second_per_core", speed)
    print(f"{speed:.0f} images per second and core")
    assert speed > 50
