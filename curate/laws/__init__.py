"""Laws and regressors over run tables: how loss depends on the mixture, tokens and model size.

Adding a law takes a file under `curate.laws.forms` that ends with its row, and that row in `LAWS`.
Tests, the command line and recipes read everything from the row.
"""

from __future__ import annotations

from curate.laws.forms.additive import ADDITIVE
from curate.laws.forms.autoscale import AUTOSCALE
from curate.laws.forms.bimix import BIMIX
from curate.laws.forms.bimix_mixed import BIMIX_MIXED
from curate.laws.forms.boosted import BOOSTED, BOOSTED_REGMIX
from curate.laws.forms.dummies import MEAN, OWN_SHARE
from curate.laws.forms.exponential import EXPONENTIAL
from curate.laws.forms.gaussian import GAUSSIAN
from curate.laws.forms.joint import JOINT
from curate.laws.forms.ridge import RIDGE
from curate.laws.forms.staged import STAGED
from curate.laws.law import FittedLaw, Law, RunTable
from curate.runtime.registry import Registry

__all__ = ["LAWS", "FittedLaw", "Law", "RunTable"]

LAWS = Registry(
    "law",
    (
        BIMIX, BIMIX_MIXED, EXPONENTIAL, ADDITIVE, AUTOSCALE, RIDGE, BOOSTED, BOOSTED_REGMIX,
        GAUSSIAN, JOINT, STAGED, MEAN, OWN_SHARE,
    ),
    "curate.laws",
)  # fmt: skip
"""Every law by name; packages installed beside curate add rows through `curate.laws`."""
