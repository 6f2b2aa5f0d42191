"""What asking by examples in the prompt costs: FLOPs of an answer with and without kept keys and values, and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from handful.backbone import Backbone
from handful.choices import Spoken, together
from handful.context import CONTENT_FREE, Context
from handful.costs import count_flops
from handful.forward import run_backbone
from handful.prefix_cache import beginning
from handful.vocabulary import Vocabulary

ID_BYTES = 4


def prompt_cost(context: Context, backbone: Backbone, words: Vocabulary, labels: Sequence[str]) -> dict[str, Any]:
    """FLOPs of an answer to a row of median length, and what is kept of the prompt; nothing is trained."""
    row = sorted(context.rows, key=lambda e: len(e.text))[len(context.rows) // 2]
    told = context.told(backbone, labels, [row])
    spoken = [context.spoken(backbone, labels, [row, row], [before, before])[0] for before in (own[0] for own in told)]
    turns = 1 + len(CONTENT_FREE) * (context.calibrated and row.choices is not None)
    whole, cached, kept = 0, 0, 0
    for own in spoken:
        first = 0 if context.similar else _shared(context, backbone, labels, own)
        full = _flops(backbone, words, own, 0)[0]
        less, size = _flops(backbone, words, own, first) if first else (full, 0)
        whole, cached, kept = whole + turns * full, cached + turns * less, kept + size
    return {
        "training_flops": 0,
        "query_flops": whole,
        "cached_query_flops": cached,
        "query_tokens": sum(len(own.prompt) + sum(len(choice) - 1 for choice in own.choices) for own in spoken),
        "kv_cache_bytes": kept,
        "bytes": _bytes(context, backbone, labels),
        "trained_parameters": 0,
        "method_parameters": 0,
        "backbone_parameters": backbone.num_parameters,
    }


def _bytes(context: Context, backbone: Backbone, labels: Sequence[str]) -> int:
    """Of the token ids of all rows that prompts may show, at four bytes each."""
    tokenizer: Any = backbone.tokenizer
    used = range(len(context.rows)) if context.similar else sorted({i for order in context.orders for i in order})
    shown = [context.demonstration(context.rows[i], labels) for i in used]
    return ID_BYTES * sum(map(len, tokenizer(shown, add_special_tokens=False)["input_ids"])) if shown else 0


def _shared(context: Context, backbone: Backbone, labels: Sequence[str], own: Spoken) -> int:
    """Tokens that all questions after one prompt begin with."""
    if not context.orders or not context.orders[0]:
        return 0
    other = Spoken((*own.prompt[:-1], -1), own.choices)  # ends otherwise: what it shares is at least the examples
    bare = len(context.spoken(backbone, labels, [context.rows[0]], [""])[0].prompt)
    return max(0, min(beginning(backbone, [own, other]), len(own.prompt) - bare))


def _flops(backbone: Backbone, words: Vocabulary, row: Spoken, first: int) -> tuple[int, int]:
    """FLOPs of a row after `first` kept tokens, by torch's counter on tensors without content, and bytes kept."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    batch = together(backbone, [Spoken(row.prompt[first:], row.choices)])
    table: Any = backbone.model.get_input_embeddings()
    places, width = len(batch.inputs["source"].unique()), int(table.weight.shape[-1])
    with torch.no_grad():
        read = count_flops(lambda: words(torch.zeros(places, width, dtype=backbone.dtype, device=backbone.device)))
        if not first:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                given = {name: fake.from_tensor(x) for name, x in batch.inputs.items()}
                return count_flops(lambda: run_backbone(backbone, given)) + read, 0
        with FakeTensorMode(allow_non_fake_inputs=True):
            model: Any = backbone.model
            ids = torch.zeros(1, first, dtype=torch.long, device=backbone.device)
            kept = model(input_ids=ids, use_cache=True).past_key_values
            size = sum(x.numel() * x.element_size() for layer in kept.layers for x in (layer.keys, layer.values))
            more = torch.zeros(1, batch.inputs["input_ids"].shape[1], dtype=torch.long, device=backbone.device)
            return count_flops(lambda: model(input_ids=more, past_key_values=kept, use_cache=True)) + read, size
