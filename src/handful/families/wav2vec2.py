"""wav2vec 2.0 and HuBERT: post-norm, or pre-norm in the large models (`do_stable_layer_norm`).

The same `encoder.layer_norm` comes before the blocks in the former and after them in the latter. Checkpoints with
`feat_extract_norm="group"` (the base models) normalise over time: there, padding changes the real frames.
"""

from dataclasses import replace

from handful.families import Family, Path, Stack

_OUTER: dict[str, Path] = {
    "embeddings.projection": ("feature_projection.projection",),
    "embeddings.projection.norm": ("feature_projection.layer_norm",),
}

_POST_NORM = Stack(
    name="encoder",
    blocks="encoder.layers",
    post_norm=True,
    roles={
        "attention.core": "attention",
        "attention.query": "attention.q_proj",
        "attention.key": "attention.k_proj",
        "attention.value": "attention.v_proj",
        "attention.out": "attention.out_proj",
        "attention.norm": "layer_norm",
        "ffn.in": "feed_forward.intermediate_dense",
        "ffn.out": "feed_forward.output_dense",
        "ffn.norm": "final_layer_norm",
    },
    outer={**_OUTER, "embeddings.norm": "encoder.layer_norm"},
    when={"do_stable_layer_norm": (False,)},
)

FAMILY = Family(
    name="wav2vec2",
    model_types=("wav2vec2", "hubert"),
    stacks=(
        _POST_NORM,
        replace(
            _POST_NORM,
            post_norm=False,
            outer={**_OUTER, "final.norm": "encoder.layer_norm"},
            when={"do_stable_layer_norm": (True,)},
        ),
    ),
)
