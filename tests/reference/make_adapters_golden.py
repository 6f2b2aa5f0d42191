"""Golden numbers of the `adapters` library, for `test_adapters.py`.

It pins an older transformers than handful needs, so this runs in an environment of its own:

    python3.11 -m venv .venv-adapters
    .venv-adapters/bin/pip install torch==2.13.0 adapters==1.3.0
    .venv-adapters/bin/python tests/reference/make_adapters_golden.py

Written, under `golden/adapters/BACKBONE`: the tiny model (`save_pretrained`), `inputs.safetensors`, and for every case
the folder that `save_adapter` wrote with `answers.safetensors` added: the final hidden states as `hidden` and, under
the library's own names, the gradient of every adapter tensor for the loss `sum(cos(0, 1, 2, ...) * hidden)` over real
tokens. All is computed in double precision from weights that float32 holds exactly, and rounded to float32 once.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import adapters
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

HERE = Path(__file__).parent / "golden" / "adapters"
ROWS, TOKENS, VOCAB = 3, 6, 31

_IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_HIDDEN = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20}
_ENCODER_DECODER = {"decoder_start_token_id": 1, "is_encoder_decoder": True}

# The widths differ from each other and, divided by the Kronecker order, from that, so that a mix-up shows.
BACKBONES: dict[str, dict[str, Any]] = {
    "bert": {**_IDS, **_HIDDEN, "max_position_embeddings": 8},
    "llama": {**_IDS, **_HIDDEN, "num_key_value_heads": 1, "max_position_embeddings": 8},
    "vit": {**_HIDDEN, "image_size": 8, "patch_size": 4},
    "t5": {
        **_IDS, **_ENCODER_DECODER, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_heads": 2, "num_layers": 2,
        "num_decoder_layers": 1, "relative_attention_num_buckets": 4, "relative_attention_max_distance": 8,
    },
    "bart": {
        **_IDS, **_ENCODER_DECODER, "d_model": 12, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 20,
        "decoder_ffn_dim": 20, "encoder_attention_heads": 3, "decoder_attention_heads": 3, "max_position_embeddings": 8,
    },
}  # fmt: skip

_HOULSBY, _PFEIFFER, _PARALLEL = adapters.DoubleSeqBnConfig, adapters.SeqBnConfig, adapters.ParBnConfig
_COMPACTER, _COMPACTER_PP = adapters.CompacterConfig, adapters.CompacterPlusPlusConfig
_PLUS = partial(adapters.AdapterPlusConfig, stochastic_depth=0.0)
_PHM = partial(_COMPACTER, reduction_factor=1.5, factorized_phm_W=False, mh_adapter=False, leave_out=[1])
CASES: dict[str, dict[str, adapters.AdapterConfig]] = {
    "bert": {
        "houlsby": _HOULSBY(reduction_factor=4),
        "pfeiffer": _PFEIFFER(reduction_factor=3),
        "parallel": _PARALLEL(reduction_factor=3),
        "compacter": _COMPACTER(reduction_factor=1.5),
        "compacter_pp": _COMPACTER_PP(reduction_factor=1.5),
        "compacter_ffn": _COMPACTER(reduction_factor=1.5, mh_adapter=False),  # Compacter++ where its paper puts it
        "compacter_rank_2": _COMPACTER(
            reduction_factor=2, phm_dim=3, phm_rank=2, factorized_phm_rule=True, phm_bias=False, leave_out=[0]
        ),
        "phm": _PHM(),
        "phm_own": _PHM(shared_phm_rule=False),
        "widths": _HOULSBY(
            reduction_factor={"0": 6, "default": 4}, scaling="learned", mh_adapter=False, non_linearity="gelu"
        ),
        "upper": _PFEIFFER(reduction_factor=4, leave_out=[0], mh_adapter=True, scaling=0.5, non_linearity="tanh"),
        "plus": _PLUS(reduction_factor=6),
    },
    "llama": {"houlsby": _HOULSBY(reduction_factor=4), "pfeiffer": _PFEIFFER(reduction_factor=3)},
    "vit": {"pfeiffer": _PFEIFFER(reduction_factor=3), "plus": _PLUS(reduction_factor=6)},
    "t5": {
        "houlsby": _HOULSBY(reduction_factor=4, mh_adapter=False, cross_adapter=True),
        "pfeiffer": _PFEIFFER(reduction_factor=6),
        "compacter": _COMPACTER(reduction_factor=2, phm_dim=2),
    },
    "bart": {
        "houlsby": _HOULSBY(reduction_factor=6, cross_adapter=True),
        "parallel": _PARALLEL(reduction_factor=6, cross_adapter=True),
    },
}
PICKLED = {("bert", "pfeiffer")}
BARE = {("bert", "pfeiffer"), ("bart", "parallel")}
"""Saved from a model without a head: the names have no prefix. (Of Compacter, this loses the shared factors.)"""


def noise(module: nn.Module, names: set[str], seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            if name in names:
                p.add_(torch.randn(p.shape, generator=generator), alpha=scale)


def make_inputs(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if name == "vit":
        return {"pixel_values": torch.randn(ROWS, 3, 8, 8, generator=generator)}
    mask = (torch.arange(TOKENS) < torch.tensor([TOKENS, TOKENS - 1, TOKENS - 3])[:, None]).long()
    inputs = {"input_ids": torch.randint(3, VOCAB, (ROWS, TOKENS), generator=generator) * mask, "attention_mask": mask}
    if name in ("t5", "bart"):
        ids = torch.randint(3, VOCAB, (ROWS, TOKENS - 1), generator=generator)
        inputs |= {"decoder_input_ids": ids * mask[:, 1:], "decoder_attention_mask": mask[:, 1:]}
    return inputs


def answer(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    hidden: Tensor = model(**inputs).last_hidden_state
    mask = inputs.get("decoder_attention_mask", inputs.get("attention_mask", torch.ones(hidden.shape[:2])))
    weights = torch.arange(hidden.numel(), dtype=hidden.dtype).cos().view_as(hidden)
    return hidden, (weights * hidden * mask[..., None]).sum()


def make_case(name: str, case: str, config: adapters.AdapterConfig, inputs: dict[str, Tensor]) -> None:
    if (name, case) in BARE:
        model = AutoModel.from_pretrained(name)
        adapters.init(model)
    else:
        model = adapters.AutoAdapterModel.from_pretrained(name)
    model.add_adapter("task", config=config)
    own = {key for key, _ in model.named_parameters() if ".task." in key}
    noise(model, own, seed=1, scale=0.3)
    model.train_adapter("task")
    model.eval()
    folder = Path(name, case)
    model.save_adapter(str(folder), "task", use_safetensors=(name, case) not in PICKLED)
    for file in folder.glob("*head*"):
        file.unlink()
    model = model.double()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    hidden, loss = answer(model.base_model, inputs)
    loss.backward()
    grads = {key: p.grad for key, p in model.named_parameters() if key in own}
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values()), (name, case)
    found = {"hidden": hidden.detach(), **grads}
    save_file({key: value.float().contiguous() for key, value in found.items()}, folder / "answers.safetensors")


def main() -> None:
    logging.disable(logging.WARNING)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    os.chdir(HERE)  # `adapters` writes the path of the model into its folders
    for name, options in BACKBONES.items():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(name, **options))
        noise(model, {key for key, _ in model.named_parameters()}, seed=2, scale=0.1)
        model.save_pretrained(name)
        inputs = make_inputs(name)
        save_file({key: value.contiguous() for key, value in inputs.items()}, Path(name, "inputs.safetensors"))
        for case, config in CASES[name].items():
            make_case(name, case, config, inputs)
    made = {package: version(package) for package in ("adapters", "transformers", "torch")}
    Path("made_with.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
