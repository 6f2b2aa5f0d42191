"""Tiny random models of every architecture with a role table, and inputs for them.

`TINY[model_type]()` builds a fresh seeded `AutoModel` in evaluation mode, in float32, from its configuration class.
Every parameter is moved by seeded noise, so that norms, biases and scales differ from their neutral values.
`VARIANTS` holds the same for configurations of these types that a table treats differently.

The widths differ from each other, so that a mix-up shows: hidden 32, attention 24 where the architecture lets it differ
(decoders, T5), key and value 12 with grouped heads, feed-forward 48, vocabulary 101.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

VOCAB, HIDDEN, HEADS, FFN, POSITIONS = 101, 32, 4, 48, 64
SPECIAL = 4  # ids below are padding, start and end; inputs hold none of them but padding

_IDS = {"vocab_size": VOCAB, "bos_token_id": 2, "eos_token_id": 3}
_ENCODER = {
    **_IDS,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": POSITIONS,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "head_dim": 6, "pad_token_id": 0}
_LOCAL = {**_DECODER, "num_hidden_layers": 4, "sliding_window": 4}
_GEMMA3 = {**_LOCAL, "layer_types": ["sliding_attention", "full_attention"] * 2}
_T5 = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": 6,
    "d_ff": FFN,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": HEADS,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}
_BART = {
    **_IDS,
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "decoder_ffn_dim": FFN,
}
_VISION = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "image_size": 32,
    "patch_size": 8,
}
_DUAL = {"text_config": _ENCODER, "vision_config": _VISION}
_SPEECH = {
    **_IDS,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": FFN,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}

_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "electra": {**_ENCODER, "embedding_size": 24},
    "distilbert": {
        "vocab_size": VOCAB,
        "dim": HIDDEN,
        "n_layers": 2,
        "n_heads": HEADS,
        "hidden_dim": FFN,
        "max_position_embeddings": POSITIONS,
    },
    "mpnet": _ENCODER,
    "deberta-v2": {  # as the v3 checkpoints
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
    },
    "modernbert": {
        **_ENCODER,
        "num_hidden_layers": 4,
        "local_attention": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": {**_BART, "max_position_embeddings": POSITIONS},
    "mbart": {**_BART, "max_position_embeddings": POSITIONS},
    "llama": _DECODER,
    "mistral": {**_LOCAL, "num_hidden_layers": 2},
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma2": {**_GEMMA3, "query_pre_attn_scalar": 6},
    "gemma3_text": {**_GEMMA3, "query_pre_attn_scalar": 6},
    "gemma3": {
        "text_config": {**_GEMMA3, "query_pre_attn_scalar": 6},
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
        "image_token_index": 100,
        "boi_token_index": 98,
        "eoi_token_index": 99,
    },
    "smollm3": {**_DECODER, "no_rope_layer_interval": 2},
    "gpt2": {**_IDS, "n_embd": HIDDEN, "n_layer": 2, "n_head": HEADS, "n_inner": FFN, "n_positions": POSITIONS},
    "vit": _VISION,
    "deit": _VISION,
    "dinov2": {**_VISION, "mlp_ratio": 2, "layerscale_value": 0.5},
    "clip": {**_DUAL, "projection_dim": 24},
    "siglip": _DUAL,
    "wav2vec2": _SPEECH,
    "hubert": _SPEECH,
    "wavlm": _SPEECH,
    "whisper": {
        **_BART,
        "num_mel_bins": 8,
        "max_source_positions": 20,
        "max_target_positions": POSITIONS,
        "pad_token_id": 0,
        "decoder_start_token_id": 1,
    },
}
_VARIANT_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5-gated": ("t5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "mt5-ungated": ("mt5", {**_T5, "feed_forward_proj": "relu"}),
    "deberta-v2-own-position": ("deberta-v2", {**_CONFIGS["deberta-v2"], "share_att_key": False}),
    "deberta-v2-narrow": ("deberta-v2", {**_CONFIGS["deberta-v2"], "embedding_size": 24, "conv_kernel_size": 3}),
    "dinov2-gated": ("dinov2", {**_CONFIGS["dinov2"], "use_swiglu_ffn": True}),
    "wav2vec2-stable": ("wav2vec2", {**_SPEECH, "do_stable_layer_norm": True}),
    "hubert-stable": ("hubert", {**_SPEECH, "do_stable_layer_norm": True}),
    "hubert-bare": ("hubert", {**_SPEECH, "feat_proj_layer_norm": False}),
    "wavlm-stable": ("wavlm", {**_SPEECH, "do_stable_layer_norm": True}),
}


def build(model_type: str, config: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """A seeded random model; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.float().eval()


TINY: dict[str, Callable[[], PreTrainedModel]] = {
    name: partial(build, name, config) for name, config in _CONFIGS.items()
}
VARIANTS: dict[str, Callable[[], PreTrainedModel]] = {
    name: partial(build, model_type, config) for name, (model_type, config) in _VARIANT_CONFIGS.items()
}

PADDING = {"roberta": 1, "xlm-roberta": 1, "mpnet": 1, "bart": 1, "mbart": 1, "siglip": 1, "clip": 1}
ENCODER_DECODERS = frozenset({"t5", "mt5", "umt5", "bart", "mbart", "whisper"})
VISION = frozenset({"vit", "deit", "dinov2"})
DUAL = frozenset({"clip", "siglip"})
SPEECH = frozenset({"wav2vec2", "hubert", "wavlm"})


def num_samples(frames: int) -> int:
    """The shortest input that the tiny speech models' convolutions turn into `frames` frames."""
    return ((frames - 1) * 2 + 3 - 1) * 5 + 10


def lengths_of(rows: int, tokens: int) -> Tensor:
    """Ragged row lengths `[rows]`: the first row is full, the others get shorter down to about half."""
    return torch.tensor([tokens - (row % max(tokens // 2, 1)) for row in range(rows)])


def tiny_inputs(
    model_type: str, rows: int, tokens: int, seed: int = 0, modality: str | None = None, side: str = "right"
) -> dict[str, Tensor]:
    """Random inputs of `TINY[model_type]` with ragged padding on one side, where the modality has any.

    `tokens` counts text tokens or speech frames; images and spectrograms have a fixed size. For models of two towers
    `modality` is "vision" (the default), "text", or "both".
    """
    generator = torch.Generator().manual_seed(seed)
    kept = torch.arange(tokens) < lengths_of(rows, tokens)[:, None]
    mask = (kept if side == "right" else kept.flip(1)).long()

    def text(prefix: str = "") -> dict[str, Tensor]:
        ids = torch.randint(SPECIAL, VOCAB - 4, (rows, tokens), generator=generator)
        ids = ids.masked_fill(mask == 0, PADDING.get(model_type, 0))
        return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}

    if model_type in SPEECH:
        samples = num_samples(tokens)
        heard = torch.tensor([num_samples(int(length)) for length in lengths_of(rows, tokens)])
        hears = torch.arange(samples) < heard[:, None]
        waves = torch.randn(rows, samples, generator=generator) * hears
        return {"input_values": waves, "attention_mask": hears.long()}
    if model_type == "whisper":
        return {"input_features": torch.randn(rows, 8, 40, generator=generator), **text("decoder_")}
    inputs: dict[str, Tensor] = {}
    if model_type in VISION or (model_type in DUAL and modality != "text"):
        inputs["pixel_values"] = torch.randn(rows, 3, 32, 32, generator=generator)
    if model_type not in VISION and not (model_type in DUAL and modality in (None, "vision")):
        inputs |= text()
    if model_type in ENCODER_DECODERS:
        inputs |= text("decoder_")
    return inputs
