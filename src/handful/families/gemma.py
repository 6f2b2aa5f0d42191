"""Gemma 2 and 3: Llama's shape with a second norm after each sub-layer, and norms that multiply by 1 + weight.

`gemma3` is the model of two modalities: its language model has roles, its vision tower stays frozen.
"""

from handful.families import Family, Stack

FAMILY = Family(
    name="gemma",
    model_types=("gemma2", "gemma3_text", "gemma3"),
    pooling="last",
    norm_offset=1.0,
    stacks=(
        Stack(
            name="decoder",
            blocks=("layers", "language_model.layers"),
            roles={
                "attention.core": "self_attn",
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.out": "self_attn.o_proj",
                "attention.norm": "input_layernorm",
                "attention.query_norm": ("self_attn.q_norm",),
                "attention.key_norm": ("self_attn.k_norm",),
                "attention.post_norm": "post_attention_layernorm",
                "ffn.gate": "mlp.gate_proj",
                "ffn.in": "mlp.up_proj",
                "ffn.out": "mlp.down_proj",
                "ffn.norm": "pre_feedforward_layernorm",
                "ffn.post_norm": "post_feedforward_layernorm",
            },
            outer={
                "embeddings": ("embed_tokens", "language_model.embed_tokens"),
                "final.norm": ("norm", "language_model.norm"),
            },
        ),
    ),
)
