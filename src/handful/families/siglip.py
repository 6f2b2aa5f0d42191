"""SigLIP: pre-norm towers for images and texts, each called by itself; their `pooler_output` is the joint space.

Images are pooled by an attention layer of torch's own, whose weights have no role; texts by their last position, so
texts must be padded to one length as in training, or pooled otherwise.
"""

from handful.families import Family, Path, Stack

_ROLES: dict[str, Path] = {
    "attention.core": "self_attn",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "attention.norm": "layer_norm1",
    "ffn.in": "mlp.fc1",
    "ffn.out": "mlp.fc2",
    "ffn.norm": "layer_norm2",
}

FAMILY = Family(
    name="siglip",
    model_types=("siglip",),
    pooling="pooler",
    entry={"pixel_values": "vision_model", "input_ids": "text_model"},
    stacks=(
        Stack(
            name="vision",
            blocks="vision_model.encoder.layers",
            roles=_ROLES,
            outer={
                "embeddings.projection": "vision_model.embeddings.patch_embedding",
                "final.norm": "vision_model.post_layernorm",
                "pooler.norm": ("vision_model.head.layernorm",),
                "pooler.in": ("vision_model.head.mlp.fc1",),
                "pooler.out": ("vision_model.head.mlp.fc2",),
            },
        ),
        Stack(
            name="text",
            blocks="text_model.encoder.layers",
            roles=_ROLES,
            outer={
                "embeddings": "text_model.embeddings.token_embedding",
                "final.norm": "text_model.final_layer_norm",
                "projection": "text_model.head",
            },
        ),
    ),
)
