"""MPNet: post-norm, with a relative position bias computed before the blocks.

No `attention.core`: MPNet computes its attention itself.
"""

from handful.families import Family, Stack

FAMILY = Family(
    name="mpnet",
    model_types=("mpnet",),
    stacks=(
        Stack(
            name="encoder",
            blocks="encoder.layer",
            post_norm=True,
            roles={
                "attention.query": "attention.attn.q",
                "attention.key": "attention.attn.k",
                "attention.value": "attention.attn.v",
                "attention.out": "attention.attn.o",
                "attention.norm": "attention.LayerNorm",
                "ffn.in": "intermediate.dense",
                "ffn.out": "output.dense",
                "ffn.norm": "output.LayerNorm",
            },
            outer={
                "embeddings": "embeddings.word_embeddings",
                "embeddings.norm": "embeddings.LayerNorm",
                "pooler": ("pooler.dense",),
            },
        ),
    ),
)
