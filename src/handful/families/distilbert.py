"""DistilBERT: post-norm, without segment embeddings and pooler."""

from handful.families import Family, Stack

FAMILY = Family(
    name="distilbert",
    model_types=("distilbert",),
    stacks=(
        Stack(
            name="encoder",
            blocks="transformer.layer",
            post_norm=True,
            roles={
                "attention.core": "attention",
                "attention.query": "attention.q_lin",
                "attention.key": "attention.k_lin",
                "attention.value": "attention.v_lin",
                "attention.out": "attention.out_lin",
                "attention.norm": "sa_layer_norm",
                "ffn.in": "ffn.lin1",
                "ffn.out": "ffn.lin2",
                "ffn.norm": "output_layer_norm",
            },
            outer={"embeddings": "embeddings.word_embeddings", "embeddings.norm": "embeddings.LayerNorm"},
        ),
    ),
)
