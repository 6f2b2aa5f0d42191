"""Llama-like decoders: pre-norm with root-mean-square norms, rotary positions, gated feed-forward.

Key and value are narrower than query with grouped heads; Qwen3 also normalises the heads of query and key.
"""

from handful.families import Family, Stack

FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3"),
    pooling="last",
    stacks=(
        Stack(
            name="decoder",
            blocks="layers",
            roles={
                "attention.core": "self_attn",
                "attention.query": "self_attn.q_proj",
                "attention.key": "self_attn.k_proj",
                "attention.value": "self_attn.v_proj",
                "attention.out": "self_attn.o_proj",
                "attention.norm": "input_layernorm",
                "attention.query_norm": ("self_attn.q_norm",),
                "attention.key_norm": ("self_attn.k_norm",),
                "ffn.gate": "mlp.gate_proj",
                "ffn.in": "mlp.up_proj",
                "ffn.out": "mlp.down_proj",
                "ffn.norm": "post_attention_layernorm",
            },
            outer={"embeddings": "embed_tokens", "final.norm": "norm"},
        ),
    ),
)
