"""Flax models, Linen and NNX, of smaller packages."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from benchmarks.catalogue.architecture import Architecture, Subject, images, linen, tokens
from benchmarks.catalogue.old_names import restore_old_names


def _flaim(module: str, name: str, size: int, config: Mapping[str, Any]) -> Subject:
    restore_old_names()
    cls = getattr(importlib.import_module(f"flaim.models.{module}"), name)
    takes = inspect.signature(cls.__call__).parameters
    return linen(
        cls(**config, n_classes=5),
        images(size),
        **({"training": False} if "training" in takes else {}),
    )


def _resnet18() -> Subject:
    restore_old_names()
    from flaxmodels.resnet.resnet import ResNet

    model = ResNet(architecture="resnet18", pretrained=None, output="logits", num_classes=10,
                   normalize=False, dtype="float64")  # fmt: skip
    return linen(model, images(32), train=False)


def _stylegan2_discriminator() -> Subject:
    restore_old_names()
    from flaxmodels.stylegan2 import Discriminator

    model = Discriminator(resolution=16, fmap_max=8, fmap_base=64, pretrained=None,
                          mbstd_group_size=1, dtype="float64")  # fmt: skip
    return linen(model, images(16))


def _transformer_in_transformer() -> Subject:
    from transformer_in_transformer_flax.tnt import TNTConfig, TransformerInTransformer

    config = TNTConfig(
        num_classes=5, depth=2, image_size=32, patch_size=16, inner_dim=12, inner_heads=2,
        inner_dim_head=6, inner_r=2, outer_dim=24, outer_heads=3, outer_dim_head=8, outer_r=2,
        dtype=jnp.float64,
    )  # fmt: skip
    return linen(TransformerInTransformer(config), images(32))


def _bottleneck_transformer() -> Subject:
    from bottleneck_transformer_flax.botnet import BoTNet, BoTNetConfig

    config = BoTNetConfig(
        stage_sizes=[1, 1, 1, 1], num_classes=5, num_heads=2, head_dim=8, initial_filters=8,
        dtype=jnp.float64,
    )  # fmt: skip
    return linen(BoTNet(config), images(64), train=False)


def _flaxdiff() -> Subject:
    from flaxdiff.models.simple_unet import Unet

    model = Unet(emb_features=16, feature_depths=(8, 16), num_res_blocks=1, norm_groups=4,
                 attention_configs=({"heads": 2}, {"heads": 2}), dtype=jnp.float64)  # fmt: skip
    floats = images(16)
    return linen(model, floats, floats.update(shape=(2,)), floats.update(shape=(2, 3, 12)))


def _stable_diffusion() -> Subject:
    from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel

    model = FlaxUNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, dtype=jnp.float64,
    )  # fmt: skip
    picture = images(8).update(shape=(2, 4, 8, 8))
    times = tokens().update(shape=(2,))
    return linen(model, picture, times, picture.update(shape=(2, 3, 12)), return_dict=False)


def _autoencoder() -> Subject:
    from diffusers.models.vae_flax import FlaxAutoencoderKL

    model = FlaxAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), norm_num_groups=4, dtype=jnp.float64,
    )  # fmt: skip
    return linen(model, images(16).update(shape=(2, 3, 16, 16)))


def _vitax() -> Subject:
    from flax import nnx
    from vitax.models.vit import VisionTransformer

    model = VisionTransformer(
        num_classes=5, img_size=16, patch_size=4, num_layers=2, num_heads=4, mlp_dim=48,
        hidden_size=32, fsdp=False, rngs=nnx.Rngs(0),
    )  # fmt: skip
    model.eval()
    return Subject(model, None, (images(16),))


def _mamba2() -> Subject:
    from flax import nnx
    from mamba2_jax import Mamba2Forecaster

    model = Mamba2Forecaster(
        input_dim=3, d_model=32, n_layers=2, output_dim=2, forecast_horizon=4, rngs=nnx.Rngs(0)
    )
    return Subject(model, None, (images(16).update(shape=(2, 8, 3)),))


_FLAIM: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "Swin": ("swin", "Swin", 16, {
        "depths": (2, 2), "token_dim": 12, "n_heads": (2, 4), "patch_size": 2, "window_size": 4}),
    "ConvNeXt V2": ("convnext", "ConvNeXt", 32, {
        "depths": (1, 2), "out_dims": (12, 16), "grn": True}),
    "MaxViT": ("maxvit", "MaxViT", 64, {
        "depths": (1, 1), "out_dims": (16, 24), "stem_out_dim": 8, "head_dim": 8,
        "partition_size_factor": 16}),
    "PVT v2": ("pvtv2", "PVTV2", 32, {
        "depths": (1, 1), "token_dims": (8, 16), "n_heads": (1, 2),
        "mlp_hidden_dim_expansion_factors": (2, 2), "sr_factors": (2, 1)}),
    "GCViT": ("gcvit", "GCViT", 64, {
        "depths": (2, 2), "token_dim": 8, "n_heads": (2, 4), "window_size_factors": (8, 8)}),
    "HorNet": ("hornet", "HorNet", 32, {
        "depths": (1, 1), "out_dim_first_stage": 16, "orders": (2, 3)}),
    "XCiT": ("xcit", "XCiT", 32, {"depth": 2, "token_dim": 16, "n_heads": 2, "patch_size": 8}),
    "NesT": ("nest", "NesT", 16, {
        "depths": (1, 1), "token_dims": (12, 16), "n_heads": (2, 4), "patch_size": 2}),
    "VAN": ("van", "VAN", 32, {
        "depths": (1, 1), "out_dims": (8, 12), "mlp_hidden_dim_expansion_factors": (2, 2)}),
    "ConvMixer": ("convmixer", "ConvMixer", 16, {
        "depth": 2, "dim": 12, "patch_size": 4, "kernel_size": 3}),
}  # fmt: skip

ARCHITECTURES = [
    *(
        Architecture(name, "flaim", functools.partial(_flaim, *arguments))
        for name, arguments in _FLAIM.items()
    ),
    Architecture("ResNet-18 (flaxmodels)", "flaxmodels", _resnet18),
    Architecture("StyleGAN2 discriminator", "flaxmodels", _stylegan2_discriminator),
    Architecture(
        "Transformer in Transformer", "transformer-in-transformer-flax",
        _transformer_in_transformer,
    ),
    Architecture("BoTNet", "bottleneck-transformer-flax", _bottleneck_transformer),
    Architecture("diffusion U-Net (flaxdiff)", "flaxdiff", _flaxdiff),
    Architecture("Stable Diffusion U-Net", "diffusers", _stable_diffusion),
    Architecture("Stable Diffusion autoencoder", "diffusers", _autoencoder),
    Architecture("ViT (NNX)", "vitax", _vitax),
    Architecture("Mamba 2 (NNX)", "mamba2-jax", _mamba2),
]  # fmt: skip
