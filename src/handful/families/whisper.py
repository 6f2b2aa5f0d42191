"""Whisper: a pre-norm encoder of spectrograms of fixed length and a pre-norm decoder of text.

Without `decoder_input_ids` only the encoder is called. The encoder knows no padding: silence is part of its input.
"""

from handful.families import Family, Path, Stack


def _attention(role: str, path: str) -> dict[str, Path]:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    return {
        f"{role}.core": path,
        **{f"{role}.{part}": f"{path}.{name}" for part, name in parts.items()},
        f"{role}.norm": f"{path}_layer_norm",
    }


_FFN: dict[str, Path] = {"ffn.in": "fc1", "ffn.out": "fc2", "ffn.norm": "final_layer_norm"}

FAMILY = Family(
    name="whisper",
    model_types=("whisper",),
    entry={"decoder_input_ids": "", "input_features": "encoder"},
    stacks=(
        Stack(
            name="encoder",
            blocks="encoder.layers",
            roles={**_attention("attention", "self_attn"), **_FFN},
            outer={"final.norm": "encoder.layer_norm"},
        ),
        Stack(
            name="decoder",
            blocks="decoder.layers",
            roles={**_attention("attention", "self_attn"), **_attention("cross", "encoder_attn"), **_FFN},
            outer={"embeddings": "decoder.embed_tokens", "final.norm": "decoder.layer_norm"},
        ),
    ),
)
