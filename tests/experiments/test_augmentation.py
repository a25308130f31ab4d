"""Augmentation: every crop is a window of the padded image, whoever computes it."""

import jax.numpy as jnp
import numpy as np

from experiments.data.augmentation import MEAN, STD, crop_and_flip, normalise


def images(count):
    return np.random.default_rng(0).integers(1, 256, (count, 8, 8, 3), np.uint8)


def test_normalised_images_are_the_definition():
    pixels = images(3)
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalise(jnp.asarray(pixels)), expected, atol=1e-5)


def test_every_crop_is_a_window_of_the_padded_image_perhaps_mirrored():
    pixels = images(64)
    found = np.asarray(crop_and_flip(jnp.asarray(pixels), jnp.arange(64), seed=1, pad=2))
    assert found.dtype == np.uint8
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = set()
    for crop, source in zip(found, padded, strict=True):
        matches = [
            (y, x, flip)
            for y in range(5)
            for x in range(5)
            for flip in (1, -1)
            if (crop == source[y : y + 8, x : x + 8][:, ::flip]).all()
        ]
        assert len(matches) == 1
        windows.add(matches[0])
    assert len(windows) > 30  # of 50
    assert {flip for _, _, flip in windows} == {1, -1}


def test_a_crop_depends_on_the_position_in_the_stream_alone():
    pixels = jnp.asarray(images(8))
    together = crop_and_flip(pixels, jnp.arange(8), seed=1)
    apart = [crop_and_flip(pixels[i : i + 1], jnp.arange(i, i + 1), seed=1)[0] for i in range(8)]
    assert (together == jnp.stack(apart)).all()
    assert (together != crop_and_flip(pixels, jnp.arange(8) + 8, seed=1)).any()
    assert (together != crop_and_flip(pixels, jnp.arange(8), seed=2)).any()


def test_from_a_position_on_images_are_whole_and_half_of_them_mirrored():
    pixels = jnp.asarray(images(64))
    cropped = crop_and_flip(pixels, jnp.arange(64), seed=1)
    found = crop_and_flip(pixels, jnp.arange(64), seed=1, uncropped_from=20)
    assert (found[:20] == cropped[:20]).all()
    mirrored = (found == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((found == pixels).all(axis=(1, 2, 3)) ^ mirrored)[20:].all()
    assert 10 < mirrored[20:].sum() < 34  # of 44
