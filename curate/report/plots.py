"""Draw what curate measured as matplotlib figures, for papers and notebooks.

Each function takes the fields of an artifact: a result of curate's functions, the JSON as a
mapping, or the path of the file. All need matplotlib (`pip install 'curate-mix[plots]'`)::

    curate.plots.methods(curate.compare("recipe.yaml")).savefig("methods.pdf")
    curate.plots.divergence("out/my-mix/entropy_report.json")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from curate.errors import InputError, MissingEvidence
from curate.report import artifact_charts
from curate.report.artifact_charts import MEASURES
from curate.report.charts import Chart
from curate.report.page.fields import mapping
from curate.report.page.law_file import check_law
from curate.report.page.material import LawCheck, Material
from curate.runtime.files import bucket_url, read_json
from curate.runtime.objects import without_access

if TYPE_CHECKING:
    import polars
    from matplotlib.figure import Figure


class HasFields(Protocol):
    """A result of curate's functions."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the artifact."""


Source = Mapping[str, Any] | HasFields | str | PathLike[str]
"""Fields of an artifact, a result that has them, or the path of the file."""


def entropies(report: Source, measure: str | None = None) -> Figure:
    """Plot entropies with their 95 % intervals, a panel each.

    Args:
        report: `entropy_report.json`, or `curate.stats(recipe, intervals=True)`. Of `stats.json`,
            the entropies are plug-in estimates without intervals.
        measure: One of `conditional`, `shannon`, `joint` and `von_neumann`; None: all there are.

    Raises:
        InputError: There are no such entropies.
        MissingEvidence: matplotlib is not installed.
    """
    measures = list(MEASURES) if measure is None else [measure]
    if unknown := set(measures) - set(MEASURES):
        raise InputError(f"plots: no measure '{unknown.pop()}'; there are {', '.join(MEASURES)}")
    domains = mapping(_report(report), "domains")
    charts = [artifact_charts.entropies(domains, name) for name in measures]
    return _figure(charts, "entropies", "entropy_report.json, of curate stats --intervals")


def saturation(report: Source) -> Figure:
    """Plot the conditional entropy as the sample grows, beside its plug-in estimate.

    Args:
        report: `entropy_report.json`, or `curate.stats(recipe, intervals=True)`.

    Raises:
        InputError: The report has no estimates on growing samples.
        MissingEvidence: matplotlib is not installed.
    """
    domains = mapping(_report(report), "domains")
    charts = [artifact_charts.saturation(domains, plug_in) for plug_in in (False, True)]
    return _figure(charts, "estimates on growing samples", "entropy_report.json")


def divergence(report: Source) -> Figure:
    """Plot the Jensen-Shannon divergence of every two domains' tokens.

    Args:
        report: `entropy_report.json`, or `curate.stats(recipe, intervals=True)`.

    Raises:
        InputError: The report has no divergences.
        MissingEvidence: matplotlib is not installed.
    """
    chart = artifact_charts.divergence(_report(report))
    return _figure([chart], "divergences between domains", "entropy_report.json")


def shares(
    mixture: Source, stats: Source | None = None, certificate: Source | None = None
) -> Figure:
    """Plot the shares of a mixture with their intervals, beside natural and realised ones.

    Args:
        mixture: `mixture.json`, or `curate.mix(recipe)`.
        stats: `stats.json`, for the natural shares.
        certificate: `certificate.json`, for the shares counted on disk.

    Raises:
        InputError: The mixture has fewer than two domains.
        MissingEvidence: matplotlib is not installed.
    """
    sources = {"mixture": mixture, "stats": stats, "certificate": certificate}
    artifacts = {name: _fields(one) for name, one in sources.items() if one is not None}
    return _figure([artifact_charts.shares(artifacts)], "shares", "mixture.json")


def methods(comparison: Source) -> Figure:
    """Plot the shares of each domain by method.

    Args:
        comparison: `mixtures.json`, or `curate.compare(recipe)`.

    Raises:
        InputError: There are no mixtures.
        MissingEvidence: matplotlib is not installed.
    """
    chart = artifact_charts.methods(_fields(comparison))
    return _figure([chart], "mixtures by method", "mixtures.json, of curate mix --compare")


def front(fields: Source) -> Figure:
    """Plot the losses of groups of targets along the Pareto front.

    Args:
        fields: `front.json`, or `curate.front(recipe)`.

    Raises:
        InputError: There are no points with losses of two groups.
        MissingEvidence: matplotlib is not installed.
    """
    charts = artifact_charts.front(_fields(fields))
    return _figure(charts, "points of a front", "front.json, of curate mix --front")


def predictions(law: Source) -> Figure:
    """Plot objectives that a law predicted for unseen runs against those measured, and the errors.

    Args:
        law: `law.json`.

    Raises:
        InputError: It is not as curate writes it.
        MissingEvidence: matplotlib is not installed.
    """
    return _figure(artifact_charts.predictions(_law(law)), "a law", "law.json")


def support(law: Source) -> Figure:
    """Plot how far the trained mixtures of a law are from each other.

    Args:
        law: `law.json`.

    Raises:
        InputError: It is not as curate writes it, or has a single mixture.
        MissingEvidence: matplotlib is not installed.
    """
    return _figure([artifact_charts.support(_law(law))], "several mixtures", "law.json")


def curves(losses: polars.DataFrame) -> Figure:
    """Plot the training losses of small models.

    Args:
        losses: The files that `curate proxy` writes, as in
            `polars.read_parquet("out/curves/*.parquet")`: columns `run`, `seed`, `tokens`, `loss`.

    Raises:
        InputError: A column is missing, or no run has two points.
        MissingEvidence: matplotlib is not installed.
    """
    missing = {"run", "seed", "tokens", "loss"} - set(losses.columns)
    if missing:
        raise InputError(f"plots: the curves have no column '{min(missing)}'")
    chart = artifact_charts.curves(artifact_charts.training_curves(losses))
    return _figure([chart], "runs with two points", "curves/*.parquet")


def rivals(validation: Source) -> Figure:
    """Plot the trained recommendation beside its rivals, and the differences seed by seed.

    Args:
        validation: `validation.json`, or `curate.validate(recipe)`.

    Raises:
        InputError: There is no trained mixture.
        MissingEvidence: matplotlib is not installed.
    """
    charts = artifact_charts.rivals(_fields(validation))
    return _figure(charts, "trained mixtures", "validation.json")


def all_plots(material: Material) -> Iterator[tuple[str, Figure]]:
    """Draw each figure of a report whose evidence is at hand, with a name for its file."""
    artifacts = material.artifacts
    report = mapping(artifacts, "entropy_report")
    domains = mapping(report, "domains") or mapping(artifacts, "stats", "domains")
    law = material.law
    plots: dict[str, Sequence[Chart | None]] = {
        "shares": [artifact_charts.shares(artifacts)],
        "methods": [artifact_charts.methods(mapping(artifacts, "mixtures"))],
        "front": artifact_charts.front(mapping(artifacts, "front")),
        "predictions": [] if law is None else artifact_charts.predictions(law),
        "support": [] if law is None else [artifact_charts.support(law)],
        "curves": [artifact_charts.curves(material.curves)],
        "rivals": artifact_charts.rivals(mapping(artifacts, "validation")),
        "entropies": [artifact_charts.entropies(domains, name) for name in MEASURES],
        "saturation": [artifact_charts.saturation(domains, plug_in) for plug_in in (False, True)],
        "divergence": [artifact_charts.divergence(report)],
    }
    for name, charts in plots.items():
        if any(charts):
            yield name, _figure(charts, "", "")


def _figure(charts: Sequence[Chart | None], what: str, where: str) -> Figure:
    """Draw the charts that there are.

    Args:
        charts: None stands for one without anything to show.
        what: What the source lacks if there is no chart.
        where: File that would have it.
    """
    drawn = [chart for chart in charts if chart is not None]
    if not drawn:
        raise InputError(f"plots: no {what} in these fields; give those of {where}")
    try:
        from curate.report.canvas import draw
    except ImportError as error:
        raise MissingEvidence(
            f"plots: matplotlib cannot be imported ({error}); pip install 'curate-mix[plots]'"
        ) from error
    return draw(drawn)


def _fields(source: Source) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if isinstance(source, str | PathLike):
        url = bucket_url(source)
        if url is not None:
            raise InputError(
                f"{without_access(url)}: is in a bucket; copy the file to a disk first"
            )
        fields = read_json(Path(source))
        if not isinstance(fields, dict):
            raise InputError(f"{source}: not an artifact of curate")
        return fields
    return source.to_json()


def _report(source: Source) -> Mapping[str, Any]:
    """Return the entropy report, which the fields of `curate stats` hold."""
    fields = _fields(source)
    return mapping(fields, "entropy_report") or fields


def _law(source: Source) -> LawCheck:
    fields = _fields(source)
    names = fields.get("domains")
    return check_law(fields, [str(name) for name in names] if isinstance(names, list) else [])
