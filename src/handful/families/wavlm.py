"""WavLM: wav2vec 2.0's shape with a gated relative position bias.

The attention reads the weights of its projections without calling them, so no attention projection has a role, and
there is no `attention.core`: feed-forward networks and norms can be tuned. The first block computes the position bias
and hands it on: not resumable.
"""

from dataclasses import replace

from handful.families import Family, Path, Stack

_OUTER: dict[str, Path] = {
    "embeddings.projection": "feature_projection.projection",
    "embeddings.projection.norm": "feature_projection.layer_norm",
}

_POST_NORM = Stack(
    name="encoder",
    blocks="encoder.layers",
    post_norm=True,
    resumable=False,
    roles={
        "attention.norm": "layer_norm",
        "ffn.in": "feed_forward.intermediate_dense",
        "ffn.out": "feed_forward.output_dense",
        "ffn.norm": "final_layer_norm",
    },
    outer={**_OUTER, "embeddings.norm": "encoder.layer_norm"},
    when={"do_stable_layer_norm": (False,)},
)

FAMILY = Family(
    name="wavlm",
    model_types=("wavlm",),
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
