"""DINOv2: pre-norm, with a learned scale on each sub-layer's output; the giant model's feed-forward is gated."""

from handful.families import Family, Stack

FAMILY = Family(
    name="dinov2",
    model_types=("dinov2",),
    pooling="first",
    stacks=(
        Stack(
            name="vision",
            blocks="encoder.layer",
            roles={
                "attention.core": "attention",
                "attention.query": "attention.q_proj",
                "attention.key": "attention.k_proj",
                "attention.value": "attention.v_proj",
                "attention.out": "attention.o_proj",
                "attention.norm": "norm1",
                "ffn.gate": ("mlp.gate_proj",),
                "ffn.in": ("mlp.fc1", "mlp.up_proj"),
                "ffn.out": ("mlp.fc2", "mlp.down_proj"),
                "ffn.norm": "norm2",
            },
            outer={"embeddings.projection": "embeddings.patch_embeddings.projection", "final.norm": "layernorm"},
        ),
    ),
)
