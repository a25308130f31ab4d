"""The Flax models of transformers 4.57, at small sizes, with random weights."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from benchmarks.catalogue.architecture import Architecture, Subject, images, linen, tokens
from benchmarks.catalogue.old_names import restore_old_names

WIDTHS = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 32,
}  # fmt: skip
ENCODER_DECODER = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40, "max_position_embeddings": 32, "decoder_start_token_id": 2,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip


def module(name: str, config_name: str, config: Mapping[str, Any]) -> Any:
    """The Linen module behind a ``FlaxXModel`` class, computing in float64."""
    library = importlib.import_module("transformers")
    settings = getattr(library, config_name)(**config)
    return getattr(library, name).module_class(config=settings, dtype=jnp.float64)


def _encoder(name: str, config_name: str, config: Mapping[str, Any]) -> Subject:
    ids = tokens()
    return linen(module(name, config_name, config), ids, ids, ids, ids, None)


def _roformer() -> Subject:
    model = module("FlaxRoFormerForMaskedLM", "RoFormerConfig", WIDTHS)
    return linen(model, tokens(), tokens(), tokens(), None)


def _plain(name: str, config_name: str, config: Mapping[str, Any], *inputs: Any) -> Subject:
    return linen(module(name, config_name, config), *(inputs or (tokens(), tokens())))


def _decoder(name: str, config_name: str, config: Mapping[str, Any]) -> Subject:
    return linen(module(name, config_name, config), tokens(), tokens(), tokens())


def _sequence_to_sequence(name: str, config_name: str, config: Mapping[str, Any]) -> Subject:
    ids = tokens()
    return linen(module(name, config_name, config), ids, ids, ids, ids, ids, ids)


def _t5(name: str, config_name: str) -> Subject:
    config = {
        "vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
        "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu",
    }  # fmt: skip
    ids = tokens(16 if "Long" in name else 8)
    restore_old_names()
    return linen(module(name, config_name, config), ids, ids, ids, ids)


def _whisper() -> Subject:
    config = {**ENCODER_DECODER, "num_mel_bins": 8, "max_source_positions": 8,
              "max_target_positions": 16}  # fmt: skip
    sound = images(16).update(shape=(2, 8, 16))
    ids = tokens()
    model = module("FlaxWhisperForConditionalGeneration", "WhisperConfig", config)
    return linen(model, sound, ids, ids, ids)


def _speech() -> Subject:
    config = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 4),
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True, "vocab_size": 40,
    }  # fmt: skip
    model = module("FlaxWav2Vec2ForCTC", "Wav2Vec2Config", config)
    return linen(model, images(16).update(shape=(2, 400)))


def _clip() -> Subject:
    text = {**WIDTHS, "eos_token_id": 2}
    config = {"text_config": text, "vision_config": VISION, "projection_dim": 24}
    ids = tokens()
    return linen(module("FlaxCLIPModel", "CLIPConfig", config), ids, images(16), ids, ids)


def _vision_text() -> Subject:
    library = importlib.import_module("transformers")
    config = library.VisionTextDualEncoderConfig.from_vision_text_configs(
        library.ViTConfig(**VISION), library.BertConfig(**WIDTHS), projection_dim=24
    )
    model = library.FlaxVisionTextDualEncoderModel.module_class(config=config, dtype=jnp.float64)
    ids = tokens()
    return linen(model, ids, images(16), ids, ids, ids)


def _image_captioner() -> Subject:
    library = importlib.import_module("transformers")
    gpt2 = library.GPT2Config(**_GPT2, add_cross_attention=True, is_decoder=True)
    config = library.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        library.ViTConfig(**VISION), gpt2
    )
    model = library.FlaxVisionEncoderDecoderModel.module_class(config=config, dtype=jnp.float64)
    ids = tokens()
    return linen(model, images(16), ids, ids, ids)


_GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
_LLAMA = {**WIDTHS, "num_key_value_heads": 2}
_CONV = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}

_ENCODERS: dict[str, tuple[Any, ...]] = {
    "BERT, masked words": ("FlaxBertForMaskedLM", "BertConfig", WIDTHS),
    "RoBERTa": ("FlaxRobertaForMaskedLM", "RobertaConfig", WIDTHS),
    "RoBERTa, pre-norm": (
        "FlaxRobertaPreLayerNormForMaskedLM", "RobertaPreLayerNormConfig", WIDTHS,
    ),
    "XLM-RoBERTa": ("FlaxXLMRobertaForSequenceClassification", "XLMRobertaConfig", WIDTHS),
    "ELECTRA": ("FlaxElectraForMaskedLM", "ElectraConfig", {**WIDTHS, "embedding_size": 24}),
    "BigBird": (
        "FlaxBigBirdForMaskedLM", "BigBirdConfig", {**WIDTHS, "attention_type": "original_full"},
    ),
}  # fmt: skip
_ENCODER_DECODERS = {
    "BART": ("FlaxBartForConditionalGeneration", "BartConfig"),
    "mBART": ("FlaxMBartForConditionalGeneration", "MBartConfig"),
    "Marian": ("FlaxMarianMTModel", "MarianConfig"),
    "Pegasus": ("FlaxPegasusForConditionalGeneration", "PegasusConfig"),
    "Blenderbot": ("FlaxBlenderbotForConditionalGeneration", "BlenderbotConfig"),
    "Blenderbot, small": (
        "FlaxBlenderbotSmallForConditionalGeneration", "BlenderbotSmallConfig",
    ),
}  # fmt: skip
_DECODERS: dict[str, tuple[Any, ...]] = {
    "GPT-2": ("FlaxGPT2LMHeadModel", "GPT2Config", _GPT2),
    "GPT-Neo": (
        "FlaxGPTNeoForCausalLM", "GPTNeoConfig",
        {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4,
         "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32},
    ),
    "GPT-J": ("FlaxGPTJForCausalLM", "GPTJConfig", {**_GPT2, "rotary_dim": 4}),
    "LLaMA": ("FlaxLlamaForCausalLM", "LlamaConfig", _LLAMA),
    "Mistral": ("FlaxMistralForCausalLM", "MistralConfig", {**_LLAMA, "sliding_window": 4}),
    "Gemma": ("FlaxGemmaForCausalLM", "GemmaConfig", {**_LLAMA, "head_dim": 8}),
    "OPT": (
        "FlaxOPTForCausalLM", "OPTConfig", {**WIDTHS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    ),
    "XGLM": (
        "FlaxXGLMForCausalLM", "XGLMConfig",
        {**ENCODER_DECODER, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    ),
}  # fmt: skip
_PLAIN: dict[str, tuple[Any, ...]] = {
    "DistilBERT": (
        "FlaxDistilBertForMaskedLM", "DistilBertConfig",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
         "max_position_embeddings": 32},
    ),
    "BLOOM": (
        "FlaxBloomForCausalLM", "BloomConfig",
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
    "ViT": ("FlaxViTForImageClassification", "ViTConfig", VISION, images(16)),
    "BEiT": ("FlaxBeitForImageClassification", "BeitConfig", VISION, images(16)),
    "DINOv2": (
        "FlaxDinov2ForImageClassification", "Dinov2Config", {**VISION, "mlp_ratio": 2}, images(16),
    ),
    "ResNet": ("FlaxResNetForImageClassification", "ResNetConfig", _CONV, images(32)),
    "RegNet": (
        "FlaxRegNetForImageClassification", "RegNetConfig", {**_CONV, "groups_width": 4},
        images(32),
    ),
}  # fmt: skip


def _all() -> dict[str, Any]:
    albert = {**WIDTHS, "embedding_size": 24}
    return {
        **{k: functools.partial(_encoder, *v) for k, v in _ENCODERS.items()},
        "ALBERT": functools.partial(
            _plain, "FlaxAlbertForMaskedLM", "AlbertConfig", albert, *[tokens()] * 4
        ),
        "RoFormer": _roformer,
        **{k: functools.partial(_plain, *v) for k, v in _PLAIN.items()},
        **{k: functools.partial(_decoder, *v) for k, v in _DECODERS.items()},
        **{
            k: functools.partial(_sequence_to_sequence, *v, ENCODER_DECODER)
            for k, v in _ENCODER_DECODERS.items()
        },
        "T5": functools.partial(_t5, "FlaxT5ForConditionalGeneration", "T5Config"),
        "mT5": functools.partial(_t5, "FlaxMT5ForConditionalGeneration", "MT5Config"),
        "LongT5": functools.partial(_t5, "FlaxLongT5ForConditionalGeneration", "LongT5Config"),
        "Whisper": _whisper,
        "wav2vec 2.0": _speech,
        "CLIP": _clip,
        "vision-text dual encoder": _vision_text,
        "ViT to GPT-2": _image_captioner,
    }


ARCHITECTURES = [Architecture(name, "transformers", build) for name, build in _all().items()]
