"""Residual networks (He et al., arXiv:1512.03385) for ImageNet and for CIFAR-10.

`ResNet` has projection shortcuts: ResNet-18 to ResNet-152 as in torchvision (the stride of a
bottleneck is in its 3 x 3 convolution), and the same networks for 32 x 32 images (3 x 3 stem, no
max-pool), which is the ResNet-50 of the OTO paper's CIFAR-10 row. `CifarResNet` is section 4.2 of
He et al.: ResNet-20, 32, 44 and 56, whose shortcuts take every other pixel and pad channels
with zeros (option A).

Every width is a field and no two fields say the same thing, so a pruned network is the same class
with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

Norm = Callable[[str], nn.BatchNorm]


def _conv(width: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    # Explicit padding: "SAME" would shift the stride-2 grid by a pixel against torch's.
    return nn.Conv(
        width,
        (size, size),
        strides=(stride, stride),
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=_he_normal,
        name=name,
    )


def _norm(train: bool, dtype: Any, axis_name: str | None) -> Norm:
    def batch_norm(name: str) -> nn.BatchNorm:
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=dtype,
            axis_name=axis_name,
            name=name,
        )

    return batch_norm


class ResidualBranch(nn.Module):
    """The convolutions of one block, before they are added to the stream.

    One inner width makes the basic branch (3 x 3, 3 x 3), two the bottleneck
    (1 x 1, 3 x 3, 1 x 1).

    Attributes:
      inner: channels inside the branch.
      out: channels of the stream that the branch is added to.
      stride: stride of the first 3 x 3 convolution.
      dtype: what the convolutions compute in.
      axis_name: see `ResNet`.
    """

    inner: tuple[int, ...]
    out: int
    stride: int
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = _norm(train, self.dtype, self.axis_name)
        sizes = (3, 3) if len(self.inner) == 1 else (1, 3, 1)
        strided = sizes.index(3)
        for i, (width, size) in enumerate(zip((*self.inner, self.out), sizes, strict=True)):
            stride = self.stride if i == strided else 1
            x = _conv(width, size, stride, self.dtype, f"conv{i + 1}")(x)
            x = norm(f"bn{i + 1}")(x)
            x = x if i == len(self.inner) else nn.relu(x)
        return x


class ResNet(nn.Module):
    """A residual network with projection shortcuts.

    Attributes:
      stem: channels of the first convolution; None where the first stage goes on in the stem's
        own stream, of ``streams[0]`` channels, with no projection (ResNet-18 and -34).
      streams: channels of the residual stream of each stage.
      inner: for each stage, for each block: its inner widths (see `ResidualBranch`).
      small_images: 3 x 3 stem without max-pool, for 32 x 32 images, instead of 7 x 7, stride 2
        and max-pool.
      num_classes: number of logits.
      dtype: what convolutions and the head compute in; parameters and logits are float32.
      axis_name: the device axis over which BatchNorm's statistics are averaged while training;
        None computes them on each device's own examples, as the paper does.

    Example:
      >>> import jax
      >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
      >>> variables = jax.eval_shape(ResNet50().init, jax.random.key(0), images)
      >>> sum(p.size for p in jax.tree.leaves(variables["params"]))
      25557032
    """

    stem: int | None
    streams: tuple[int, ...]
    inner: tuple[tuple[tuple[int, ...], ...], ...]
    small_images: bool = False
    num_classes: int = 1000
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores.

        Args:
          images: normalised images, shape ``(batch, height, width, 3)``.
          train: normalise with the batch's own statistics.

        Returns:
          Logits, float32, shape ``(batch, num_classes)``.
        """
        x = self._stem(images, train)
        for stage, (out, blocks) in enumerate(zip(self.streams, self.inner, strict=True), 1):
            for number, inner in enumerate(blocks, 1):
                stride = 2 if stage > 1 and number == 1 else 1
                x = self._block(x, inner, out, stride, (stage, number), train)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)

    def _stem(self, images: jax.Array, train: bool) -> jax.Array:
        width = self.streams[0] if self.stem is None else self.stem
        size, stride = (3, 1) if self.small_images else (7, 2)
        x = _conv(width, size, stride, self.dtype, "stem_conv")(images)
        x = nn.relu(_norm(train, self.dtype, self.axis_name)("stem_bn")(x))
        if self.small_images:
            return x
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    def _block(
        self,
        x: jax.Array,
        inner: tuple[int, ...],
        out: int,
        stride: int,
        place: tuple[int, int],
        train: bool,
    ) -> jax.Array:
        stage, number = place
        name = f"stage{stage}_block{number}"
        branch = ResidualBranch(inner, out, stride, self.dtype, self.axis_name, name=name)
        y = branch(x, train)
        # Decided by the structure, never by widths: in a pruned network they may agree by chance.
        if number == 1 and (stage > 1 or self.stem is not None):
            x = _conv(out, 1, stride, self.dtype, f"stage{stage}_shortcut_conv")(x)
            x = _norm(train, self.dtype, self.axis_name)(f"stage{stage}_shortcut_bn")(x)
        return nn.relu(x + y)


def _basic(blocks: tuple[int, ...], fields: dict[str, Any]) -> ResNet:
    widths = (64, 128, 256, 512)
    inner = tuple(((width,),) * count for width, count in zip(widths, blocks, strict=True))
    return ResNet(**{"stem": None, "streams": widths, "inner": inner, **fields})


def _bottleneck(blocks: tuple[int, ...], fields: dict[str, Any]) -> ResNet:
    widths = (64, 128, 256, 512)
    inner = tuple(((width, width),) * count for width, count in zip(widths, blocks, strict=True))
    streams = tuple(4 * width for width in widths)
    return ResNet(**{"stem": 64, "streams": streams, "inner": inner, **fields})


def ResNet18(**fields: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters for ImageNet."""
    return _basic((2, 2, 2, 2), fields)


def ResNet34(**fields: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters for ImageNet."""
    return _basic((3, 4, 6, 3), fields)


def ResNet50(**fields: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters for ImageNet."""
    return _bottleneck((3, 4, 6, 3), fields)


def ResNet101(**fields: Any) -> ResNet:
    """ResNet-101: 44,549,160 parameters for ImageNet."""
    return _bottleneck((3, 4, 23, 3), fields)


def ResNet152(**fields: Any) -> ResNet:
    """ResNet-152: 60,192,808 parameters for ImageNet."""
    return _bottleneck((3, 8, 36, 3), fields)


def ResNet50_CIFAR(**fields: Any) -> ResNet:
    """ResNet-50 for 32 x 32 images: 23,520,842 parameters with 10 classes."""
    return ResNet50(**{"small_images": True, "num_classes": 10, **fields})


class CifarResNet(nn.Module):
    """The residual network of He et al., section 4.2, with parameter-free shortcuts.

    The stream of a later stage is the earlier one between ``before`` and ``after`` new channels,
    which the shortcut fills with zeros.

    Attributes:
      stem: channels of the first convolution and of the first stage's stream.
      pads: for each later stage: how many channels the stream gains before and after.
      inner: for each stage: the inner width of each block.
      num_classes: number of logits.
      dtype: what convolutions and the head compute in; parameters and logits are float32.
      axis_name: see `ResNet`.

    Example:
      >>> import jax
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(ResNet20().init, jax.random.key(0), images)
      >>> sum(p.size for p in jax.tree.leaves(variables["params"]))
      269722
    """

    stem: int = 16
    pads: tuple[tuple[int, int], ...] = ((8, 8), (16, 16))
    inner: tuple[tuple[int, ...], ...] = ((16,) * 3, (32,) * 3, (64,) * 3)
    num_classes: int = 10
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @property
    def streams(self) -> tuple[int, ...]:
        """Channels of the residual stream of each stage."""
        widths = [self.stem]
        for before, after in self.pads:
            widths.append(before + widths[-1] + after)
        return tuple(widths)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Class scores: ``(batch, height, width, 3)`` to float32 ``(batch, num_classes)``."""
        x = _conv(self.stem, 3, 1, self.dtype, "stem_conv")(images)
        x = nn.relu(_norm(train, self.dtype, self.axis_name)("stem_bn")(x))
        for stage, (out, widths) in enumerate(zip(self.streams, self.inner, strict=True), 1):
            for number, width in enumerate(widths, 1):
                grows = stage > 1 and number == 1
                branch = ResidualBranch(
                    (width,),
                    out,
                    2 if grows else 1,
                    self.dtype,
                    self.axis_name,
                    name=f"stage{stage}_block{number}",
                )
                shortcut = zero_padded_shortcut(x, *self.pads[stage - 2]) if grows else x
                x = nn.relu(shortcut + branch(x, train))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


def zero_padded_shortcut(x: jax.Array, before: int, after: int) -> jax.Array:
    """Every other pixel of ``x``, with zero channels added: option A of He et al., section 4.1.

    Args:
      x: stream, shape ``(batch, height, width, channels)``.
      before: number of zero channels put first.
      after: number of zero channels put last.

    Returns:
      Shape ``(batch, ceil(height / 2), ceil(width / 2), before + channels + after)``.

    Example:
      >>> import jax.numpy as jnp
      >>> zero_padded_shortcut(jnp.ones((1, 8, 8, 4)), 2, 3).shape
      (1, 4, 4, 9)
    """
    return jnp.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (before, after)))


def _cifar(blocks: int, fields: dict[str, Any]) -> CifarResNet:
    inner = tuple((width,) * blocks for width in (16, 32, 64))
    return CifarResNet(**{"inner": inner, **fields})


def ResNet20(**fields: Any) -> CifarResNet:
    """ResNet-20 for CIFAR-10: 269,722 parameters."""
    return _cifar(3, fields)


def ResNet32(**fields: Any) -> CifarResNet:
    """ResNet-32 for CIFAR-10: 464,154 parameters."""
    return _cifar(5, fields)


def ResNet44(**fields: Any) -> CifarResNet:
    """ResNet-44 for CIFAR-10: 658,586 parameters."""
    return _cifar(7, fields)


def ResNet56(**fields: Any) -> CifarResNet:
    """ResNet-56 for CIFAR-10: 853,018 parameters."""
    return _cifar(9, fields)
