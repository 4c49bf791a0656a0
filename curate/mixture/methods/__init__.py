"""Mixing methods, one family a file; `METHODS` lists them.

To add one, write a function from a request to a `Preference` and a row at the end of its file, and
list the row here. A method that only names a law needs no function, just a row in `needs_evidence`.
"""

from __future__ import annotations

from curate.mixture.methods.baselines import MANUAL, NATURAL, TEMPERATURE, UNIFORM, UNIMAX
from curate.mixture.methods.entropic import ENTROPY
from curate.mixture.methods.leverage import LEVERAGE
from curate.mixture.methods.needs_evidence import (
    ADDITIVE,
    AUTOSCALE,
    BIMIX,
    BIMIX_MIXED,
    BOOSTED,
    BOOSTED_MDE,
    DML,
    GAUSSIAN,
    GAUSSIAN_MDE,
    JOINT,
    LAW,
    MDE,
    MIXMIN,
    OLMIX,
    REGMIX,
    RIDGE,
    RIDGE_MDE,
)
from curate.runtime.registry import Registry

__all__ = ["METHODS"]

METHODS = Registry(
    "method",
    (
        NATURAL, UNIFORM, TEMPERATURE, UNIMAX, MANUAL, ENTROPY, LEVERAGE, BIMIX, BIMIX_MIXED, DML,
        OLMIX, ADDITIVE, AUTOSCALE, RIDGE, GAUSSIAN, BOOSTED, REGMIX, JOINT, RIDGE_MDE,
        GAUSSIAN_MDE, BOOSTED_MDE, LAW, MDE, MIXMIN,
    ),
    "curate.methods",
)  # fmt: skip
"""Every method by name, cheapest first; packages installed beside curate add rows through
`curate.methods`."""
