"""What the paper does to images, on the device: flips, crops, normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Of ImageNet's training images in [0, 1]; the paper and the CIFAR checkpoints use it everywhere.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(images: jax.Array) -> jax.Array:
    """uint8 images ``(..., 3)`` as float32 of about zero mean and unit variance."""
    scale = jnp.asarray([1 / (255 * s) for s in STD], jnp.float32)
    shift = jnp.asarray([m / s for m, s in zip(MEAN, STD, strict=True)], jnp.float32)
    ones = (1,) * (images.ndim - 1)
    return images.astype(jnp.float32) * scale.reshape(*ones, 3) - shift.reshape(*ones, 3)


def crop_and_flip(
    images: jax.Array,
    positions: jax.Array,
    seed: int,
    pad: int = 4,
    uncropped_from: int | None = None,
) -> jax.Array:
    """Random crops of the zero-padded images, half of them mirrored.

    Args:
      images: uint8, shape ``(batch, height, width, channels)``: the padding is black, as in the
        paper; after normalisation zeros would be the mean colour.
      positions: each image's number in the stream of examples, int32 ``(batch,)``; with the seed
        it decides the crop, whichever device computes it.
      seed: of the crops.
      pad: zero pixels on each side before cropping.
      uncropped_from: from this position on, images are whole, and only mirrored.

    Returns:
      Shape and dtype of ``images``.
    """

    def one(image: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), position)
        crop, flip = jax.random.split(key)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        corner = jax.random.randint(crop, (2,), 0, 2 * pad + 1)
        if uncropped_from is not None:
            corner = jnp.where(position < uncropped_from, corner, pad)
        y, x = corner
        image = jax.lax.dynamic_slice(padded, (y, x, 0), image.shape)
        return jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)

    return jax.vmap(one)(images, positions)
