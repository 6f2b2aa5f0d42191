"""DeBERTa-v2 and v3: BERT's shape with disentangled attention over content and relative position.

No `attention.core`: DeBERTa computes its attention itself. With `share_att_key` (all v3 checkpoints) the query and key
projections are called a second time in each block, on the relative positions `[1, 2 * span, D]` instead of the rows.
The convolution beside the first block of the xlarge v2 checkpoints has no role.
"""

from handful.families import Family, Stack

FAMILY = Family(
    name="deberta",
    model_types=("deberta-v2",),
    stacks=(
        Stack(
            name="encoder",
            blocks="encoder.layer",
            post_norm=True,
            roles={
                "attention.query": "attention.self.query_proj",
                "attention.key": "attention.self.key_proj",
                "attention.value": "attention.self.value_proj",
                "attention.out": "attention.output.dense",
                "attention.norm": "attention.output.LayerNorm",
                "ffn.in": "intermediate.dense",
                "ffn.out": "output.dense",
                "ffn.norm": "output.LayerNorm",
            },
            outer={
                "embeddings": "embeddings.word_embeddings",
                "embeddings.norm": "embeddings.LayerNorm",
                "embeddings.projection": ("embeddings.embed_proj",),
            },
        ),
    ),
)
