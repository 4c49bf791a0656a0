"""Laws and regressors over run tables: how loss depends on the mixture, tokens and model size.

`LAWS` lists them. Adding one takes a file and a row here, and the contract test picks it up.
"""

from __future__ import annotations

import difflib

from curate.errors import FitError
from curate.laws.forms.additive import fit_additive
from curate.laws.forms.autoscale import fit_autoscale
from curate.laws.forms.bimix import fit_bimix
from curate.laws.forms.bimix_mixed import fit_bimix_mixed
from curate.laws.forms.boosted import fit_boosted, fit_boosted_regmix
from curate.laws.forms.dummies import fit_mean, fit_own_share
from curate.laws.forms.exponential import fit_exponential
from curate.laws.forms.gaussian import fit_gaussian
from curate.laws.forms.joint import fit_joint
from curate.laws.forms.ridge import fit_ridge
from curate.laws.law import FittedLaw, Law, RunTable

__all__ = ["DUMMIES", "LAWS", "FittedLaw", "Law", "RunTable", "find"]

DUMMIES = ("mean", "own_share")
"""Laws that the others must beat."""

LAWS: dict[str, Law] = {
    "bimix": Law(
        name="bimix",
        summary="own share and tokens: r^-alpha (b s^-beta + c)",
        paper="BiMix, Ge et al. 2024, arXiv:2405.14908v4, Eq. 3",
        needs="targets that are domains, two different positive shares of each",
        fit=fit_bimix,
    ),
    "bimix_mixed": Law(
        name="bimix_mixed",
        summary="BiMix with the shares of all domains, summed",
        paper="after BiMix Eq. 3 and Olmix, Chen et al. 2026, arXiv:2602.12237",
        needs="runs; better with more of them than twice the domains",
        fit=fit_bimix_mixed,
    ),
    "exponential": Law(
        name="exponential",
        summary="data mixing law: c + exp(t.w), with a prior on the slopes",
        paper="Data Mixing Laws, Ye et al. 2024, arXiv:2403.16952, Eq. 7",
        needs="runs; better with more of them than domains",
        fit=fit_exponential,
    ),
    "additive": Law(
        name="additive",
        summary="E + 1 / sum C w^gamma + A/N^alpha + B/D^beta",
        paper="Shukor et al. 2025, arXiv:2507.09404, additive law",
        needs="runs; better with more of them than twice the domains",
        fit=fit_additive,
    ),
    "autoscale": Law(
        name="autoscale",
        summary="a power law of the tokens of every domain, summed",
        paper="AutoScale, Kang et al. 2024, arXiv:2407.20177",
        needs="runs; better with more of them than three times the domains",
        fit=fit_autoscale,
    ),
    "ridge": Law(
        name="ridge",
        summary="linear in the shares, penalty by cross-validation",
        paper="RegMix, Liu et al. 2024, arXiv:2407.01492v2, App. E",
        needs="runs",
        fit=fit_ridge,
    ),
    "boosted": Law(
        name="boosted",
        summary="boosted trees (LightGBM) with small leaves",
        paper="after RegMix, Liu et al. 2024, arXiv:2407.01492v2",
        needs="LightGBM; runs, better with more than 100",
        fit=fit_boosted,
    ),
    "boosted_regmix": Law(
        name="boosted_regmix",
        summary="boosted trees (LightGBM) with RegMix's settings",
        paper="RegMix, Liu et al. 2024, arXiv:2407.01492v2",
        needs="LightGBM; 40 rows, better with more than 250",
        fit=fit_boosted_regmix,
    ),
    "gaussian": Law(
        name="gaussian",
        summary="a Gaussian process on square-root shares around the additive law",
        paper="Rasmussen and Williams 2006, around arXiv:2507.09404",
        needs="runs",
        fit=fit_gaussian,
    ),
    "joint": Law(
        name="joint",
        summary="two trends of useful data and a Gaussian process, weighed by errors left out",
        paper="no paper; ours",
        needs="4 different mixtures; better with twice as many runs as domains",
        fit=fit_joint,
    ),
    "mean": Law(
        name="mean",
        summary="the mean loss, whatever the mixture: a dummy",
        paper="no paper",
        needs="runs",
        fit=fit_mean,
    ),
    "own_share": Law(
        name="own_share",
        summary="the mean loss times a power of the own share: a dummy",
        paper="no paper",
        needs="runs",
        fit=fit_own_share,
    ),
}


def find(name: str) -> Law:
    """The law of that name.

    Raises:
        FitError: There is none; says which there are.
    """
    if name not in LAWS:
        near = difflib.get_close_matches(name, LAWS, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise FitError(f"fit: no law '{name}'{hint}; there is: {', '.join(LAWS)}")
    return LAWS[name]
