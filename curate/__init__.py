"""curate: turn raw text corpora into the right pretraining mix.

Each command has a function of the same name here::

    recipe = curate.load_recipe("recipe.yaml")
    curate.stats(recipe).to_polars()
    curate.build(recipe, progress="terminal")
    data = curate.load("out/my-mix", 2048)

Importing curate is fast: a function's module is imported when the function is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curate.loader import load
    from curate.pipeline.api import (
        build,
        compare,
        design,
        diff,
        engine,
        experts,
        fit,
        front,
        init,
        mix,
        plan,
        proxy,
        push,
        remove,
        report,
        show,
        stats,
        tokenize,
        validate,
        verify,
    )
    from curate.recipe import load_recipe
    from curate.report import plots

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "build",
    "compare",
    "design",
    "diff",
    "engine",
    "experts",
    "fit",
    "front",
    "init",
    "load",
    "load_recipe",
    "mix",
    "plan",
    "plots",
    "proxy",
    "push",
    "remove",
    "report",
    "show",
    "stats",
    "tokenize",
    "validate",
    "verify",
]

_MODULES = dict.fromkeys(__all__[1:], "curate.pipeline.api") | {
    "load": "curate.loader",
    "load_recipe": "curate.recipe",
    "plots": "curate.report.plots",
}
"""Module of each function; `plots` is one itself."""


class _LazyPackage(ModuleType):
    """The package `curate`, whose functions are imported when they are first used.

    `curate.stats`, `curate.plan`, `curate.proxy` and `curate.report` are functions, yet packages of
    the same names hold their parts. When such a package is first imported, the import system sets
    it as an attribute of `curate`; that is ignored, so the name always means the function, whatever
    was imported before. `from curate.stats.entropy import x` and pickles find packages in
    `sys.modules` and work as ever; only `import curate.stats.entropy as e` cannot.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'curate' has no attribute {name!r}")
        module = importlib.import_module(_MODULES[name])
        self.__dict__[name] = member = getattr(module, name, module)
        return member

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        """Name the functions, and what every module has; not what this file imports."""
        return sorted({*__all__, *(name for name in self.__dict__ if name.startswith("__"))})


sys.modules[__name__].__class__ = _LazyPackage
