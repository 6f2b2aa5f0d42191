"""ModernBERT: pre-norm, fused query-key-value and gated feed-forward, local and global attention in turn.

The first block has an identity in place of `attention.norm`: the norm of the embeddings comes right before it.
"""

from handful.families import Family, Slice, Stack

FAMILY = Family(
    name="modernbert",
    model_types=("modernbert",),
    stacks=(
        Stack(
            name="encoder",
            blocks="layers",
            roles={
                "attention.core": "attn",
                "attention.query": Slice("attn.Wqkv", 0, 3),
                "attention.key": Slice("attn.Wqkv", 1, 3),
                "attention.value": Slice("attn.Wqkv", 2, 3),
                "attention.out": "attn.Wo",
                "attention.norm": "attn_norm",
                "ffn.gate": Slice("mlp.Wi", 0, 2),
                "ffn.in": Slice("mlp.Wi", 1, 2),
                "ffn.out": "mlp.Wo",
                "ffn.norm": "mlp_norm",
            },
            outer={
                "embeddings": "embeddings.tok_embeddings",
                "embeddings.norm": "embeddings.norm",
                "final.norm": "final_norm",
            },
        ),
    ),
)
