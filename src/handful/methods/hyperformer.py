"""HyperFormer (Karimi Mahabadi et al. 2021, arXiv 2106.04489): adapters written by networks that tasks share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.methods.base import Base, Method
from handful.types import Params, Site

Networks = Literal["site", "position", "stack", "none"]


@dataclass(frozen=True, kw_only=True)
class HyperFormer(Method):
    """`A(x) = LN(U gelu(D x + b_down) + b_up) + x`, its tensors `W I + b` of the task's embedding, `I = MLP(z)`.

    `LN(v) = gamma (v - mean) / std + beta`, `d = h / reduction`. Tasks share all but `z`, gamma and beta start at zero.
    `networks`: one a "site"; a "stack" (++), `I = LN(MLP([z; l_i; p_j]))`; a "position", of `[z; l_i]`; or "none".
    `only_embedding` trains only `z`. Parameters: networks `(t + 1) (2 h d + d + 3 h)`, and for n embeddings an MLP
    `(n t' + 1) e + (e + 1) t`, LN `2 t`, tables `t'` a row.
    """

    source: ClassVar[str] = "Karimi Mahabadi et al. 2021, arXiv 2106.04489, section 2"
    reduction: int = 32
    embedding: int = 64  # t'
    projected: int = 64  # t
    hidden: int = 128  # e
    networks: Networks = "site"
    hyper_seed: int = 0
    only_embedding: bool = False
    roles: frozenset[str] = frozenset({"attention.out", "ffn.out"})

    def tied(self, name: str) -> bool:
        return name != "z" and self.networks != "none"

    def rate(self, name: str) -> float:
        return 0.0 if self.only_embedding and self.tied(name) else 1.0

    def decays(self, name: str) -> bool:
        return name.endswith((".W", ".b")) and "LN." not in name

    def init(self, site: Site, generator: torch.Generator) -> dict[str, Tensor]:
        shapes = self._shapes(site).items()
        if self.networks == "none":
            return {n: 0.01 * torch.randn(s, generator=generator) if n in "UD" else torch.zeros(s) for n, s in shapes}
        seeded = torch.Generator().manual_seed(1000 * self.hyper_seed + 1 + site.index)
        return self._network("", site, seeded) if self.networks == "site" else {}

    def shared(self, sites: Sequence[Site], generator: torch.Generator) -> dict[str, Tensor]:
        params = {"z": torch.randn(1, self.embedding, generator=generator)} if self.networks != "none" else {}
        t, e, seeded = self.projected, self.hidden, torch.Generator().manual_seed(1000 * self.hyper_seed)
        for site, (source, network, tables) in [(site, self._reads(site)) for site in sites if params]:
            if f"{source}I1.W" not in params:
                params |= {name: torch.randn(n, self.embedding, generator=seeded) for name, (n, _) in tables.items()}
                params |= _linears(source, {"I1": (e, self.embedding * (1 + len(tables))), "I2": (t, e)}, seeded)
                params |= {f"{source}LN.W": torch.ones(t), f"{source}LN.b": torch.zeros(t)} if tables else {}
            if network and f"{network}U.W" not in params:
                params |= self._network(network, site, seeded)
        return params

    def apply(self, params: dict[str, Tensor], x: Any, base: Base, site: Site) -> Any:
        p, h = self.generated(params, site), base(x)
        v = F.gelu(h @ p["D"].mT + p["b_down"], approximate="tanh") @ p["U"].mT + p["b_up"]
        return h + (p["gamma"] * F.layer_norm(v, v.shape[-1:]) + p["beta"])

    def finished(self, params: Params, sites: Sequence[Site]) -> tuple[Method, Params]:
        made = {s.name: self.generated(params.get("shared", {}) | params.get(s.name, {}), s) for s in sites}
        kept = {site: {n: p if n in "UD" else p.flatten() for n, p in own.items()} for site, own in made.items()}
        return replace(self, networks="none"), kept

    def generated(self, params: dict[str, Tensor], site: Site) -> dict[str, Tensor]:
        """The adapter of each task at a site: `D [..., d, h]`, `U [..., h, d]`, and the rest as rows `[..., 1, n]`."""
        if self.networks == "none":
            return params
        source, network, tables = self._reads(site)
        v = torch.cat([params["z"], *(params[name][..., i : i + 1, :] for name, (_, i) in tables.items())], -1)
        v = _linear(params, f"{source}I2", F.relu(_linear(params, f"{source}I1", v)))
        if tables:
            v = F.layer_norm(v, v.shape[-1:], eps=1e-6) * params[f"{source}LN.W"] + params[f"{source}LN.b"]
        made = {name: _linear(params, network + name, v) for name in self._shapes(site)}
        return made | {n: made[n].unflatten(-1, self._shapes(site)[n]).squeeze(-3) for n in "UD"}

    def _reads(self, site: Site) -> tuple[str, str, dict[str, list[int]]]:
        """Prefixes of what makes `I` and of the network that reads it; of each table its rows and that of the site."""
        source = "" if self.networks == "site" else f"{site.stack}."
        roles = sorted(self.roles, reverse=True)  # the feed-forward network first, as released
        every = [("l", site.num_layers, site.layer), ("p", len(roles), roles.index(site.role))]
        network = f"{source}{site.role}." if self.networks == "position" else source
        return source, network, {source + name: row for name, *row in every[: get_args(Networks).index(self.networks)]}

    def _shapes(self, site: Site) -> dict[str, tuple[int, ...]]:
        h, r = site.d_out, self.reduction
        if not 1 <= r <= h or self.networks not in get_args(Networks):
            raise ValueError(f"reduction {r} must be 1 to {h}, and networks {self.networks!r} be known")
        return {"D": (h // r, h), "U": (h, h // r), "b_down": (h // r,), "b_up": (h,), "gamma": (h,), "beta": (h,)}

    def _network(self, prefix: str, site: Site, seeded: torch.Generator) -> dict[str, Tensor]:
        shapes = self._shapes(site).items()
        made = _linears(prefix, {name: (torch.Size(s).numel(), self.projected) for name, s in shapes}, seeded)
        return made | {n: torch.zeros_like(p) for n, p in made.items() if n.endswith(("gamma.W", "beta.W"))}


@dataclass(frozen=True, kw_only=True)
class HyperFormerPP(HyperFormer):
    """HyperFormer++: one network a stack writes the adapters of all its layers and positions."""

    networks: Networks = "stack"


def _linears(prefix: str, sizes: Mapping[str, tuple[int, int]], seeded: torch.Generator) -> dict[str, Tensor]:
    weights = {f"{prefix}{name}.W": 0.01 * torch.randn(size, generator=seeded) for name, size in sizes.items()}
    return weights | {f"{prefix}{name}.b": torch.zeros(size[0]) for name, size in sizes.items()}


def _linear(params: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ params[f"{name}.W"].mT + params[f"{name}.b"]
