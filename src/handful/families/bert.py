"""BERT-like encoders whose blocks are named as in BERT: post-norm, separate query, key and value."""

from handful.families import Family, Stack

FAMILY = Family(
    name="bert",
    model_types=("bert", "roberta", "xlm-roberta", "electra"),
    stacks=(
        Stack(
            name="encoder",
            blocks="encoder.layer",
            post_norm=True,
            roles={
                "attention.core": "attention.self",
                "attention.query": "attention.self.query",
                "attention.key": "attention.self.key",
                "attention.value": "attention.self.value",
                "attention.out": "attention.output.dense",
                "attention.norm": "attention.output.LayerNorm",
                "ffn.in": "intermediate.dense",
                "ffn.out": "output.dense",
                "ffn.norm": "output.LayerNorm",
            },
            outer={
                "embeddings": "embeddings.word_embeddings",
                "embeddings.norm": "embeddings.LayerNorm",
                "embeddings.projection": ("embeddings_project",),
                "pooler": ("pooler.dense",),
            },
        ),
    ),
)
