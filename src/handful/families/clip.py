"""CLIP: a pre-norm tower for images and a causal one for texts, each called by itself.

The projections into the joint space are outside the towers: a tower's `pooler_output` comes before them.
The vision tower's final norm sees only the first token.
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
    name="clip",
    model_types=("clip",),
    pooling="pooler",
    entry={"pixel_values": "vision_model", "input_ids": "text_model"},
    stacks=(
        Stack(
            name="vision",
            blocks="vision_model.encoder.layers",
            roles=_ROLES,
            outer={
                "embeddings.projection": "vision_model.embeddings.patch_embedding",
                "embeddings.norm": "vision_model.pre_layrnorm",
                "final.norm": "vision_model.post_layernorm",
                "projection": "visual_projection",
            },
        ),
        Stack(
            name="text",
            blocks="text_model.encoder.layers",
            roles=_ROLES,
            outer={
                "embeddings": "text_model.embeddings.token_embedding",
                "final.norm": "text_model.final_layer_norm",
                "projection": "text_projection",
            },
        ),
    ),
)
