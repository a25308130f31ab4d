"""VGG for 32 x 32 images: thirteen convolutions, global average pooling, three dense layers.

Simonyan & Zisserman, arXiv:1409.1556, configuration D, in the form that CIFAR-10 work uses (and the
OTO paper, arXiv:2107.07467, section 4): the convolutions keep their bias also before a BatchNorm,
and the classifier is 512-512-10 with dropout.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class VGG(nn.Module):
    """VGG16 and VGG16-BN for small images.

    Every width is a field, so a pruned network is this class with other numbers.

    Attributes:
      widths: output channels of each convolution, one tuple per stage; a 2 x 2 max-pool ends a
        stage.
      hidden: units of the hidden dense layers.
      num_classes: number of logits.
      batch_norm: BatchNorm after each convolution.
      dropout: rate before each hidden dense layer, while training.
      dtype: what convolutions and dense layers compute in; parameters and logits are float32.
      axis_name: the device axis over which BatchNorm's statistics are averaged while training;
        None computes them on each device's own examples, as the paper does.

    Example:
      >>> import jax
      >>> model = VGG16_BN()
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
      >>> sum(p.size for p in jax.tree.leaves(variables["params"]))
      15253578
    """

    widths: tuple[tuple[int, ...], ...] = (
        (64, 64),
        (128, 128),
        (256, 256, 256),
        (512, 512, 512),
        (512, 512, 512),
    )
    hidden: tuple[int, ...] = (512, 512)
    num_classes: int = 10
    batch_norm: bool = False
    dropout: float = 0.5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores.

        Args:
          images: normalised images, shape ``(batch, height, width, 3)``.
          train: use dropout (needs a ``dropout`` key) and the batch's own statistics.

        Returns:
          Logits, float32, shape ``(batch, num_classes)``.
        """
        x = images
        for stage, widths in enumerate(self.widths, 1):
            for number, width in enumerate(widths, 1):
                x = self._convolution(x, width, f"{stage}_{number}", train)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.mean(x, axis=(1, 2))
        for number, width in enumerate(self.hidden, 1):
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense{number}")(x))
        logits = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
        return logits.astype(jnp.float32)

    def _convolution(self, x: jax.Array, width: int, number: str, train: bool) -> jax.Array:
        x = nn.Conv(width, (3, 3), dtype=self.dtype, kernel_init=_he_normal, name=f"conv{number}")(
            x
        )
        if self.batch_norm:
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                dtype=self.dtype,
                axis_name=self.axis_name,
                name=f"bn{number}",
            )(x)
        return nn.relu(x)


def VGG16(**fields: Any) -> VGG:
    """VGG16: 15,245,130 parameters with 10 classes."""
    return VGG(**fields)


def VGG16_BN(**fields: Any) -> VGG:
    """VGG16 with BatchNorm after each convolution: 15,253,578 parameters with 10 classes."""
    return VGG(**{"batch_norm": True, **fields})
