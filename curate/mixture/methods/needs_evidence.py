"""Methods that need evidence from models: training runs, experts, or both.

Their work is in `law_methods` and `expert_methods`, which need SciPy. Those are imported on the
first call, so that listing the methods stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from curate.errors import MissingEvidence
from curate.mixture.request import (
    KEYS_BY_EVIDENCE,
    NEEDS_EVIDENCE,
    Method,
    MixtureRequest,
    Preference,
)

if TYPE_CHECKING:
    from curate.laws.law import RunTable
    from curate.laws.likelihoods import Likelihoods
    from curate.mixture.goals import Tradeoff

NEEDS_BOTH = (
    "mixture: method 'METHOD' needs the experts' log-probabilities beside the runs. Name both in "
    "the recipe, mixture: {evidence: {runs: runs.csv, experts: experts.parquet}}; `curate experts "
    "RECIPE` makes the latter"
)
NEEDS_ONE_STAGE = (
    "mixture: the runs have a mixture for each of the stages STAGES, and method 'METHOD' has one "
    "for all of training; set mixture: {method: law, law: staged}"
)
NEEDS_LAW = (
    "mixture.law is missing: method METHOD needs one, such as bimix or exponential; `curate fit` "
    "compares them on a run table"
)

BOTH_KEYS = (*KEYS_BY_EVIDENCE["runs"], "evidence.experts")
"""Keys of `mixture` that methods with runs and experts read."""


@dataclass(frozen=True, slots=True)
class LawMethod:
    """Fit a law to training runs and choose the mixture of least predicted loss."""

    law: str | None
    """A law of `curate.laws.LAWS`, or of experts beside runs; None: the recipe's `mixture.law`."""
    kl_bpb: float = 0.0
    """Bits per byte of loss that a nat of KL divergence from the prior is worth, unless the recipe
    sets `kl`, which is in the unit of the losses."""
    simulated: bool = False
    """Whether the answer is the mean of the best of many draws, as RegMix's, in place of an
    optimum."""
    needs_experts: bool = False
    """Whether the law also sees the losses of experts mixed by the shares."""

    def __call__(self, request: MixtureRequest) -> Preference:
        """Choose the shares.

        Raises:
            MissingEvidence: There are no runs, or no experts where they are needed, or they lack a
                domain.
            RecipeError: The objective, prior or floors name something that is not there.
            FitError: The runs cannot determine the law.
        """
        from curate.mixture.methods.law_methods import least_loss

        runs = self._runs(request)
        if runs.stages:
            if (self.law or request.options.search.law) != "staged":
                raise MissingEvidence(
                    NEEDS_ONE_STAGE.replace("METHOD", request.method).replace(
                        "STAGES", ", ".join(runs.stages)
                    )
                )
            from curate.mixture.methods.staged_method import stages_of_least_loss

            return stages_of_least_loss(request, runs)
        return least_loss(
            request,
            runs,
            law=self.law,
            kl_bpb=self.kl_bpb,
            simulated=self.simulated,
        )

    def tradeoff(self, request: MixtureRequest) -> Tradeoff:
        """Prepare a front of the request's groups; see `__call__` for what it raises."""
        from curate.mixture.methods.law_methods import trade_groups

        return trade_groups(request, self._runs(request), (self.law, self.kl_bpb, self.simulated))

    def _runs(self, request: MixtureRequest) -> RunTable:
        evidence = request.evidence
        if self.needs_experts and (evidence is None or evidence.experts is None):
            raise MissingEvidence(NEEDS_BOTH.replace("METHOD", request.method))
        if evidence is None or evidence.runs is None:
            raise MissingEvidence(NEEDS_EVIDENCE["runs"].replace("METHOD", request.method))
        return evidence.runs


@dataclass(frozen=True, slots=True)
class ExpertMethod:
    """Choose the mixture of experts, one model a domain, that predicts the targets best."""

    level: Literal["token", "document"]
    """Level at which experts are mixed, unless the recipe's `mixture.level` says otherwise."""

    def __call__(self, request: MixtureRequest) -> Preference:
        """Choose the shares.

        Raises:
            MissingEvidence: There are no log-probabilities, or none of a domain's expert.
            RecipeError: The objective or floors name something that is not there.
        """
        from curate.mixture.methods.expert_methods import best_predictors

        return best_predictors(request, self._experts(request), self.level)

    def tradeoff(self, request: MixtureRequest) -> Tradeoff:
        """Prepare a front of the request's groups; see `__call__` for what it raises."""
        from curate.mixture.methods.expert_methods import trade_groups

        return trade_groups(request, self._experts(request), self.level)

    def _experts(self, request: MixtureRequest) -> Likelihoods:
        if request.evidence is None or request.evidence.experts is None:
            raise MissingEvidence(NEEDS_EVIDENCE["experts"].replace("METHOD", request.method))
        return request.evidence.experts


BIMIX = Method(
    name="bimix",
    summary="least loss by BiMix's law of each domain's own share",
    paper="Ge et al. 2024, BiMix, arXiv:2405.14908v4, Eq. 15",
    needs="runs of at least two mixtures",
    prefer=LawMethod("bimix"),
    evidence="runs",
)

BIMIX_MIXED = Method(
    name="bimix_mixed",
    summary="least loss by BiMix's law with the shares of all domains",
    paper="after Ge et al. 2024, arXiv:2405.14908v4, Eq. 3",
    needs="runs, better more than twice the domains",
    prefer=LawMethod("bimix_mixed"),
    evidence="runs",
)

DML = Method(
    name="dml",
    summary="least loss by the data mixing law, log-linear in the shares",
    paper="Ye et al. 2024, Data Mixing Laws, arXiv:2403.16952, Eq. 7",
    needs="runs, better more than the domains",
    prefer=LawMethod("exponential"),
    evidence="runs",
)

OLMIX = Method(
    name="olmix",
    summary="the same with a KL pull of 0.05 bits per byte to the natural mixture",
    paper="Chen et al. 2026, Olmix, arXiv:2602.12237",
    needs="runs, better 3 (domains + 1)",
    prefer=LawMethod("exponential", kl_bpb=0.05),
    evidence="runs",
    pulls=True,
)

ADDITIVE = Method(
    name="additive",
    summary="least loss by the additive law of mixture, tokens and size",
    paper="Shukor et al. 2025, arXiv:2507.09404",
    needs="runs, better more than twice the domains",
    prefer=LawMethod("additive"),
    evidence="runs",
)

AUTOSCALE = Method(
    name="autoscale",
    summary="least loss by power laws of every domain's tokens",
    paper="Kang et al. 2024, AutoScale, arXiv:2407.20177",
    needs="runs, better more than three times the domains",
    prefer=LawMethod("autoscale"),
    evidence="runs",
)

RIDGE = Method(
    name="ridge",
    summary="least loss by linear regression: a corner of what is allowed",
    paper="Liu et al. 2024, RegMix, arXiv:2407.01492v2, App. E",
    needs="runs",
    prefer=LawMethod("ridge"),
    evidence="runs",
)

GAUSSIAN = Method(
    name="gaussian",
    summary="least loss by a Gaussian process on square-root shares",
    paper="no paper, after Rasmussen and Williams 2006",
    needs="runs",
    prefer=LawMethod("gaussian"),
    evidence="runs",
)

BOOSTED = Method(
    name="boosted",
    summary="least loss by boosted trees with small leaves",
    paper="after Liu et al. 2024, arXiv:2407.01492v2",
    needs="LightGBM and runs, better more than 100",
    prefer=LawMethod("boosted"),
    evidence="runs",
)

REGMIX = Method(
    name="regmix",
    summary="boosted trees, and the mean of the best of simulated mixtures",
    paper="Liu et al. 2024, RegMix, arXiv:2407.01492v2",
    needs="LightGBM and 40 runs, better more than 250",
    prefer=LawMethod("boosted_regmix", simulated=True),
    evidence="runs",
    reads=tuple(key for key in KEYS_BY_EVIDENCE["runs"] if key != "trust_region"),
    prior_always=True,
)

JOINT = Method(
    name="joint",
    summary="least loss by our joint law of mixture, tokens and model size",
    paper="no paper; ours",
    needs="runs of 4 mixtures, better twice the domains",
    prefer=LawMethod("joint"),
    evidence="runs",
)

RIDGE_MDE = Method(
    name="ridge_mde",
    summary="least loss by linear regression on shares and experts' losses",
    paper="Belenki et al. 2025, MDE, arXiv:2502.15950",
    needs="runs, and log-probabilities from `curate experts`",
    prefer=LawMethod("ridge_mde", needs_experts=True),
    evidence="runs",
    reads=BOTH_KEYS,
    requires={"evidence.experts": NEEDS_BOTH},
)

GAUSSIAN_MDE = Method(
    name="gaussian_mde",
    summary="least loss by a Gaussian process on root shares and experts' losses",
    paper="after Belenki et al. 2025, MDE, arXiv:2502.15950",
    needs="runs, and log-probabilities from `curate experts`",
    prefer=LawMethod("gaussian_mde", needs_experts=True),
    evidence="runs",
    reads=BOTH_KEYS,
    requires={"evidence.experts": NEEDS_BOTH},
)

BOOSTED_MDE = Method(
    name="boosted_mde",
    summary="least loss by boosted trees on shares and experts' losses",
    paper="after Belenki et al. 2025, MDE, arXiv:2502.15950",
    needs="LightGBM, runs, and log-probabilities from `curate experts`",
    prefer=LawMethod("boosted_mde", needs_experts=True),
    evidence="runs",
    reads=BOTH_KEYS,
    requires={"evidence.experts": NEEDS_BOTH},
)

LAW = Method(
    name="law",
    summary="least loss by any law of `curate fit`, named in mixture.law",
    paper="that of the law; the method itself has no paper",
    needs="runs, and mixture.law",
    prefer=LawMethod(law=None),
    evidence="runs",
    reads=(*BOTH_KEYS, "law"),
    requires={"law": NEEDS_LAW},
)

MDE = Method(
    name="mde",
    summary="experts mixed token by token predict the targets best",
    paper="Belenki et al. 2025, MDE, arXiv:2502.15950",
    needs="log-probabilities from `curate experts`",
    prefer=ExpertMethod("token"),
    evidence="experts",
)

MIXMIN = Method(
    name="mixmin",
    summary="experts mixed document by document predict the targets best",
    paper="Thudi et al. 2025, MixMin, arXiv:2502.10510",
    needs="log-probabilities from `curate experts`",
    prefer=ExpertMethod("document"),
    evidence="experts",
)
