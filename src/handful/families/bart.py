"""BART-like encoder-decoders: post-norm in BART, pre-norm with a final norm in mBART.

Without `decoder_input_ids` the model shifts `input_ids` itself; the last decoder position is what it pools.
"""

from dataclasses import replace

from handful.families import Family, Path, Stack


def _attention(role: str, path: str) -> dict[str, Path]:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {
        f"{role}.core": path,
        **{f"{role}.{part}": f"{path}.{name}" for part, name in parts.items()},
        f"{role}.norm": f"{path}_layer_norm",
    }


_FFN: dict[str, Path] = {"ffn.in": "fc1", "ffn.out": "fc2", "ffn.norm": "final_layer_norm"}

_ENCODER = Stack(
    name="encoder",
    blocks="encoder.layers",
    post_norm=True,
    roles={**_attention("attention", "self_attn"), **_FFN},
    outer={
        "embeddings": "encoder.embed_tokens",
        "embeddings.norm": "encoder.layernorm_embedding",
        "final.norm": ("encoder.layer_norm",),
    },
    when={"model_type": ("bart",)},
)
_DECODER = Stack(
    name="decoder",
    blocks="decoder.layers",
    post_norm=True,
    roles={**_attention("attention", "self_attn"), **_attention("cross", "encoder_attn"), **_FFN},
    outer={
        "embeddings": "decoder.embed_tokens",
        "embeddings.norm": "decoder.layernorm_embedding",
        "final.norm": ("decoder.layer_norm",),
    },
    when={"model_type": ("bart",)},
)

FAMILY = Family(
    name="bart",
    model_types=("bart", "mbart"),
    pooling="last",
    stacks=(
        _ENCODER,
        _DECODER,
        replace(_ENCODER, post_norm=False, when={"model_type": ("mbart",)}),
        replace(_DECODER, post_norm=False, when={"model_type": ("mbart",)}),
    ),
)
