"""curate: turn raw text corpora into the right pretraining mix.

The parts, in the order data meets them: `recipe`, `sources`, `tokens`, `stats`, `mixture`,
`plan`, `sample`, `formats`, `verify`, `report`. `curate.cli` is a thin skin over them.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`curate.load`, brought in when it is first asked for: importing curate stays light."""
    if name == "load":
        return importlib.import_module("curate.loader").load
    raise AttributeError(f"module 'curate' has no attribute {name!r}")
