"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images of shape ``(n, 8, 8, 1)`` in 0 ... 1, labels of shape ``(n,)`` in 0 ... 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_images(test_images: int, seed: int) -> Digits:
    """The images, split at random with equal shares of each class.

    Args:
      test_images: how many to hold out.
      seed: of the split.

    Raises:
      OptionError: if the split would leave a class out of one side.
    """
    source = load_digits()
    images = (source.images[..., None] / 16).astype(np.float32)
    if not 10 <= test_images <= len(images) - 10:
        raise OptionError(
            f"--test-images {test_images} of {len(images)}: hold out at least one image of each of"
            " the 10 classes, and leave one to train on"
        )
    train, test, train_labels, test_labels = train_test_split(
        images, source.target, test_size=test_images, stratify=source.target, random_state=seed
    )
    return Digits(train, train_labels, test, test_labels)


def batches(
    digits: Digits, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The whole batches of one epoch, in an order that the seed and the epoch decide."""
    order = np.random.default_rng((seed, epoch)).permutation(len(digits.train_images))
    for number in range(len(order) // batch_size):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        yield digits.train_images[chosen], digits.train_labels[chosen]


def shift(key: jax.Array, images: jax.Array) -> jax.Array:
    """Moves each image by -1, 0 or 1 pixel in both directions; what comes in is black."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 3)

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(window)(padded, corners)
