"""PEFT's form of VeRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from handful.methods.vera import projections
from handful.peft_format.base import Config, Layer, LayerForm, Own, Tensors, refused

_A, _B, _EXTENT = "base_model.vera_A", "base_model.vera_B", "base_model.vera_extent"


class VeRAForm(LayerForm):
    """The projections are made from their seed again; handful also writes how large they are, which `peft` skips."""

    method, peft_type = "vera", "VERA"
    suffixes: ClassVar[Mapping[str, str]] = {"b": "vera_lambda_b", "d": "vera_lambda_d"}
    known = LayerForm.known | {
        "r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights"
    }  # fmt: skip

    def config(self, options: Config, layers: Sequence[Layer]) -> Config:
        return {
            "r": options["rank"], "projection_prng_key": options["projection_seed"], "save_projection": False,
            "vera_dropout": options["dropout"], "d_initial": options["d_initial"], "bias": "none",
        }  # fmt: skip

    def options(self, config: Config, module: str, own: Own, layer: Layer) -> Config:
        return {
            "rank": config["r"], "projection_seed": config.get("projection_prng_key") or 0,
            "dropout": float(config.get("vera_dropout") or 0), "d_initial": float(config.get("d_initial", 0.1)),
        }  # fmt: skip

    def by_module(self, tensors: Tensors, whole: Sequence[str] = ()) -> dict[str, Own]:
        return super().by_module(tensors, (_A, _B, _EXTENT, *whole))

    def common(self, params: Own) -> dict[str, Tensor]:
        return {_EXTENT: torch.tensor(params["extent"].shape[-2:])}

    def shared(self, config: Config, tensors: Tensors, layers: Sequence[Layer]) -> Own:
        if _EXTENT in tensors:
            widest = [int(width) for width in tensors[_EXTENT]]
        elif _A in tensors:
            widest = [tensors[_B].shape[0], tensors[_A].shape[1]]
            self._check_projections(config, tensors, widest)
        else:
            shapes = [layer.weight.shape for layer in layers if layer.weight is not None]
            widest = [max(shape[i] for shape in shapes) for i in range(2)]
        return {"extent": torch.empty(0, *widest, dtype=torch.uint8)}

    @staticmethod
    def _check_projections(config: Config, tensors: Tensors, widest: Sequence[int]) -> None:
        seed = config.get("projection_prng_key") or 0
        made = projections(seed, config["r"], widest[0], widest[1], tensors[_A].dtype, tensors[_A].device)
        if not all(torch.equal(mine, tensors[key]) for mine, key in zip(made, (_A, _B), strict=True)):
            raise refused(
                f"Its projections vera_A and vera_B are not those that projection_prng_key = {seed} gives here.",
                "Use it with peft: handful makes the projections from their seed.",
            )
