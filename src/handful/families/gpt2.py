"""GPT-2: pre-norm, fused query-key-value, and `Conv1D` projections whose weight is `[in, out]`."""

from handful.families import Family, Slice, Stack

FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    pooling="last",
    stacks=(
        Stack(
            name="decoder",
            blocks="h",
            roles={
                "attention.core": "attn",
                "attention.query": Slice("attn.c_attn", 0, 3),
                "attention.key": Slice("attn.c_attn", 1, 3),
                "attention.value": Slice("attn.c_attn", 2, 3),
                "attention.out": "attn.c_proj",
                "attention.norm": "ln_1",
                "ffn.in": "mlp.c_fc",
                "ffn.out": "mlp.c_proj",
                "ffn.norm": "ln_2",
            },
            outer={"embeddings": "wte", "final.norm": "ln_f"},
        ),
    ),
)
