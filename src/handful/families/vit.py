"""Vision transformers in ViT's naming: pre-norm, the first token (two in DeiT) stands for the image."""

from handful.families import Family, Stack

FAMILY = Family(
    name="vit",
    model_types=("vit", "deit"),
    pooling="first",
    stacks=(
        Stack(
            name="vision",
            blocks="layers",
            roles={
                "attention.core": "attention",
                "attention.query": "attention.q_proj",
                "attention.key": "attention.k_proj",
                "attention.value": "attention.v_proj",
                "attention.out": "attention.o_proj",
                "attention.norm": "layernorm_before",
                "ffn.in": "mlp.fc1",
                "ffn.out": "mlp.fc2",
                "ffn.norm": "layernorm_after",
            },
            outer={
                "embeddings.projection": "embeddings.patch_embeddings.projection",
                "final.norm": "layernorm",
                "pooler": ("pooler.dense",),
            },
        ),
    ),
)
