"""Learn a new task from a handful of labelled examples by tuning a handful of parameters on a frozen transformer.

    from handful import FewShotClassifier
    classifier = FewShotClassifier(backbone="minilm", seed=0).fit(texts, labels)

The public names are looked up when they are first used, so `import handful` is quick and imports no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handful import methods, recipes
    from handful.adapters_format import read_folder as load_adapters
    from handful.artifact import Artifact, load
    from handful.attach import Adapted, attach
    from handful.backbone import load as load_backbone
    from handful.classifier import FewShotClassifier, fit_many
    from handful.errors import HandfulError
    from handful.fit import evaluate, fit
    from handful.metalearn import meta_train, prime
    from handful.methods import method
    from handful.methods.base import Method
    from handful.methods.combine import union
    from handful.methods.variants import OnLayers
    from handful.peft_format import load_peft, save_peft
    from handful.prior import Prior, load_prior, save_prior
    from handful.types import Batch, Episode, Example, Site, Task

__version__ = "0.1.0"

_PUBLIC = {
    "FewShotClassifier": "handful.classifier:FewShotClassifier",
    "fit_many": "handful.classifier:fit_many",
    "Artifact": "handful.artifact:Artifact",
    "load": "handful.artifact:load",
    "load_adapters": "handful.adapters_format:read_folder",
    "load_backbone": "handful.backbone:load",
    "attach": "handful.attach:attach",
    "Adapted": "handful.attach:Adapted",
    "fit": "handful.fit:fit",
    "evaluate": "handful.fit:evaluate",
    "load_peft": "handful.peft_format:load_peft",
    "meta_train": "handful.metalearn:meta_train",
    "prime": "handful.metalearn:prime",
    "Prior": "handful.prior:Prior",
    "load_prior": "handful.prior:load_prior",
    "save_prior": "handful.prior:save_prior",
    "save_peft": "handful.peft_format:save_peft",
    "method": "handful.methods:method",
    "methods": "handful.methods:",
    "union": "handful.methods.combine:union",
    "OnLayers": "handful.methods.variants:OnLayers",
    "recipes": "handful.recipes:",
    "Batch": "handful.types:Batch",
    "Episode": "handful.types:Episode",
    "Example": "handful.types:Example",
    "Method": "handful.methods.base:Method",
    "Site": "handful.types:Site",
    "Task": "handful.types:Task",
    "HandfulError": "handful.errors:HandfulError",
}
"""public name -> "module:attribute", or "module:" for the module itself"""

__all__ = [
    "Adapted",
    "Artifact",
    "Batch",
    "Episode",
    "Example",
    "FewShotClassifier",
    "HandfulError",
    "Method",
    "OnLayers",
    "Prior",
    "Site",
    "Task",
    "attach",
    "evaluate",
    "fit",
    "fit_many",
    "load",
    "load_adapters",
    "load_backbone",
    "load_peft",
    "load_prior",
    "meta_train",
    "method",
    "methods",
    "prime",
    "recipes",
    "save_peft",
    "save_prior",
    "union",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = import_module(module)
    if attribute:
        found = getattr(found, attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """Keeps `handful.fit` and `handful.attach` the functions: importing a submodule would bind it to its name here."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and not _PUBLIC.get(name, ":").endswith(":"):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
