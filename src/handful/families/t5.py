"""T5-like encoder-decoders: pre-norm with root-mean-square norms, feed-forward networks gated (v1.1, mT5) or not.

T5 and mT5 compute the relative position bias in the first block, which hands it on from block to block: not resumable.
UMT5 has one in every block. Attention is not scaled, and its function gets the bias as `position_bias`.
"""

from dataclasses import replace

from handful.families import Family, Path, Stack


def _attention(role: str, path: str, norm: str) -> dict[str, Path]:
    parts = {"query": "q", "key": "k", "value": "v", "out": "o"}
    return {
        f"{role}.core": path,
        **{f"{role}.{part}": f"{path}.{name}" for part, name in parts.items()},
        f"{role}.norm": norm,
    }


def _ffn(layer: str) -> dict[str, Path]:
    return {
        "ffn.in": (f"{layer}.DenseReluDense.wi", f"{layer}.DenseReluDense.wi_1"),
        "ffn.gate": (f"{layer}.DenseReluDense.wi_0",),
        "ffn.out": f"{layer}.DenseReluDense.wo",
        "ffn.norm": f"{layer}.layer_norm",
    }


_ENCODER = Stack(
    name="encoder",
    blocks="encoder.block",
    resumable=False,
    roles={**_attention("attention", "layer.0.SelfAttention", "layer.0.layer_norm"), **_ffn("layer.1")},
    outer={"embeddings": "encoder.embed_tokens", "final.norm": "encoder.final_layer_norm"},
    when={"model_type": ("t5", "mt5")},
)
_DECODER = Stack(
    name="decoder",
    blocks="decoder.block",
    resumable=False,
    roles={
        **_attention("attention", "layer.0.SelfAttention", "layer.0.layer_norm"),
        **_attention("cross", "layer.1.EncDecAttention", "layer.1.layer_norm"),
        **_ffn("layer.2"),
    },
    outer={"embeddings": "decoder.embed_tokens", "final.norm": "decoder.final_layer_norm"},
    when={"model_type": ("t5", "mt5")},
)

FAMILY = Family(
    name="t5",
    model_types=("t5", "mt5", "umt5"),
    entry={"decoder_input_ids": "", "input_ids": "encoder"},
    stacks=(
        _ENCODER,
        _DECODER,
        replace(_ENCODER, resumable=True, when={"model_type": ("umt5",)}),
        replace(_DECODER, resumable=True, when={"model_type": ("umt5",)}),
    ),
)
