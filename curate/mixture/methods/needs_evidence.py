"""The methods that need evidence from models, as rows of `METHODS` see them.

Laws and solvers take SciPy, which is loaded only when one of these is asked for.
"""

from __future__ import annotations

from curate.errors import MissingEvidence
from curate.mixture.request import MixtureRequest, Preference


def from_runs(request: MixtureRequest) -> Preference:
    """Fit the method's law to the runs and find the mixture of least predicted loss.

    Raises:
        MissingEvidence: There are no runs, or they do not know a domain.
        RecipeError: The objective, prior or floors name something that is not there.
        FitError: The runs cannot determine the law.
    """
    from curate.mixture.methods import law_methods

    if request.evidence is None or request.evidence.runs is None:
        raise MissingEvidence(
            f"mixture: method '{request.method}' needs training runs. Name the table in the "
            "recipe, mixture: {evidence: {runs: runs.csv}} (or [ratios.csv, metrics.csv]); "
            "`curate proxy RECIPE` trains one, `curate design` proposes its mixtures"
        )
    return law_methods.solve(request, request.evidence.runs)


def from_experts(request: MixtureRequest) -> Preference:
    """Find the mixture of the experts that predicts the targets best.

    Raises:
        MissingEvidence: There are no log-probabilities, or none of a domain's expert.
        RecipeError: The objective or floors name something that is not there.
    """
    from curate.mixture.methods import expert_methods

    if request.evidence is None or request.evidence.experts is None:
        raise MissingEvidence(
            f"mixture: method '{request.method}' needs the experts' log-probabilities. Name the "
            "file in the recipe, mixture: {evidence: {experts: experts.parquet}}; `curate experts "
            "RECIPE` makes it"
        )
    return expert_methods.solve(request, request.evidence.experts)


def from_both(request: MixtureRequest) -> Preference:
    """As `from_runs`, by a law that also sees what experts mixed by the shares lose.

    Raises:
        MissingEvidence: There are no runs or no experts, or they do not know a domain.
        RecipeError: The objective, prior or floors name something that is not there.
        FitError: The runs cannot determine the law.
    """
    if request.evidence is None or request.evidence.experts is None:
        raise MissingEvidence(
            f"mixture: method '{request.method}' needs the experts' log-probabilities beside the "
            "runs. Name both in the recipe, mixture: {evidence: {runs: runs.csv, experts: "
            "experts.parquet}}; `curate experts RECIPE` makes the latter"
        )
    return from_runs(request)
